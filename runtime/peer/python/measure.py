"""Measures one job of one model in one peer. The request comes as JSON on the standard input (Request in peer.go); the answer
is one line of JSON on the standard output: times_ms and more, or why the peer is not there (missing)."""
import json
import os
import sys
from types import SimpleNamespace

from shape import Missing


def measure(request):
    if request.peer == "llama.cpp":
        import llamacpp
        return llamacpp.measure(request)
    import pytorch
    return pytorch.measure(request)


def main():
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too
    request = SimpleNamespace(**json.load(sys.stdin))
    os.environ["OMP_NUM_THREADS"] = str(request.threads)
    try:
        found = measure(request)
    except Missing as why:
        found = {"missing": str(why)}
    except ModuleNotFoundError as e:
        found = {"missing": f"the module {e.name} is not installed for {sys.executable}"}
    print(json.dumps(found), file=answer, flush=True)


if __name__ == "__main__":
    main()
