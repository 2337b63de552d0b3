// Package gomod fits a generated package among Go modules: it finds the module that a folder belongs to, and writes a
// go.mod where there is none.
package gomod

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/mod/modfile"

	"github.com/tfc-dev/tfc"
	gogen "github.com/tfc-dev/tfc/codegen/go"
)

// Tool is the tfc at work: how a module can require it.
type Tool struct {
	Version  string // v1.2.3, or Devel for one that was built from a checkout
	Sum      string // of the module's files, as go.sum writes it; "" for Devel
	Checkout string // folder of the checkout, for Devel; "" where it is not known
}

// Devel is the version of a tfc that was built from a checkout.
const Devel = "devel"

// Self describes the running program.
func Self() Tool {
	info, ok := debug.ReadBuildInfo()
	if ok && info.Main.Path == gogen.Module && info.Main.Sum != "" {
		return Tool{Version: info.Main.Version, Sum: info.Main.Sum}
	}
	t := Tool{Version: Devel}
	_, file, _, _ := runtime.Caller(0) // .../cmd/tfc/internal/gomod/gomod.go, or no path under -trimpath
	if dir := filepath.Join(filepath.Dir(file), "../../../.."); filepath.IsAbs(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && modfile.ModulePath(data) == gogen.Module {
			t.Checkout = dir
		}
	}
	return t
}

// Place is where a package lies among modules.
type Place struct {
	ImportPath string
	Root       string // folder of the module; "" where the package needs a go.mod of its own
	Note       string // what is still to be done so that it builds, or ""
}

// Find returns the place of a package in dir, by the nearest go.mod in dir or above it.
func (t Tool) Find(dir, name string) (Place, error) {
	root, data, err := Above(dir)
	if err != nil {
		return Place{}, err
	}
	if root == "" {
		return Place{ImportPath: standalone(name)}, nil
	}
	file := filepath.Join(root, "go.mod")
	mod, err := modfile.ParseLax(file, data, nil)
	if err != nil {
		return Place{}, err
	}
	if mod.Module == nil {
		return Place{}, fmt.Errorf("%s names no module", file)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Place{}, err
	}
	rel, err := filepath.Rel(root, abs)
	if err != nil {
		return Place{}, err
	}
	return Place{path.Join(mod.Module.Mod.Path, filepath.ToSlash(rel)), root, t.note(mod, root)}, nil
}

// Above returns the folder of the nearest go.mod in dir or above it, and its text; "" where there is none.
func Above(dir string) (root string, text []byte, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	for {
		text, err := os.ReadFile(filepath.Join(abs, "go.mod"))
		if err == nil {
			return abs, text, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return "", nil, err
		}
		up := filepath.Dir(abs)
		if up == abs {
			return "", nil, nil
		}
		abs = up
	}
}

// note says how a module comes to require this tfc, if it does not.
func (t Tool) note(mod *modfile.File, root string) string {
	if mod.Module.Mod.Path == gogen.Module {
		return ""
	}
	for _, r := range mod.Require {
		if r.Mod.Path == gogen.Module {
			if t.Version != Devel && r.Mod.Version != t.Version {
				return fmt.Sprintf("%s requires tfc %s, and this package was written by %s; in %s run\n  go get %s@%s ./...", filepath.Join(root, "go.mod"), r.Mod.Version, t.Version, root, gogen.Module, t.Version)
			}
			return ""
		}
	}
	text := fmt.Sprintf("module %s does not require tfc yet, whose runtime the package imports; in %s run\n", mod.Module.Mod.Path, root)
	if t.Version != Devel {
		return text + fmt.Sprintf("  go get %s@%s ./...", gogen.Module, t.Version)
	}
	return text + fmt.Sprintf("  go mod edit -require=%s@%s -replace=%s=%s && go get ./...", gogen.Module, noVersion, gogen.Module, modfile.AutoQuote(t.Checkout))
}

// noVersion is what a module requires that it replaces by a folder.
const noVersion = "v0.0.0"

// standalone is the path of a module that holds one package: under a domain that nobody can own (RFC 2606).
func standalone(name string) string { return "example.com/" + name }

// Standalone returns the import path of a package that is a module of its own, and the go.mod and go.sum that let it
// build without asking the network for anything but tfc itself.
func (t Tool) Standalone(name string) (importPath string, files []gogen.File, err error) {
	own, err := modfile.Parse("go.mod", tfc.GoMod, nil)
	if err != nil {
		return "", nil, err
	}
	mod := &modfile.File{}
	version, sums := t.Version, bytes.Clone(tfc.GoSum)
	err = errors.Join(mod.AddModuleStmt(standalone(name)), mod.AddGoStmt(own.Go.Version))
	if t.Version == Devel {
		if t.Checkout == "" {
			return "", nil, errors.New("this tfc was built from a checkout whose place it does not know (-trimpath), so it cannot write a go.mod; build inside a module that requires " + gogen.Module)
		}
		version = noVersion
		err = errors.Join(err, mod.AddReplace(gogen.Module, "", t.Checkout, ""))
	} else {
		sums = fmt.Appendf(sums, "%s %s %s\n%s %s/go.mod %s\n", gogen.Module, version, t.Sum, gogen.Module, version, goModSum(tfc.GoMod))
	}
	mod.AddNewRequire(gogen.Module, version, false)
	for _, r := range own.Require {
		mod.AddNewRequire(r.Mod.Path, r.Mod.Version, true)
	}
	mod.SetRequireSeparateIndirect(mod.Require)
	mod.Cleanup()
	text, failed := mod.Format()
	return standalone(name), []gogen.File{{Path: "go.mod", Data: text}, {Path: "go.sum", Data: sums}}, errors.Join(err, failed)
}

// goModSum is the hash of a go.mod, as go.sum writes it (https://go.dev/ref/mod#go-sum-files).
func goModSum(text []byte) string {
	file := sha256.Sum256(text)
	list := sha256.Sum256(fmt.Appendf(nil, "%x  go.mod\n", file))
	return "h1:" + base64.StdEncoding.EncodeToString(list[:])
}
