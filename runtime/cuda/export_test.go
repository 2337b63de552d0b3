package cuda

// Forget makes the next call load the libraries anew.
func Forget() {
	loaded.driver, loadedBLAS.library = nil, nil
}
