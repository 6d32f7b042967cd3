"""An intervention script that stops for ten minutes each time it has kept a sample, so that a test can end it there.

In: `python -m tests.support.held_up head_patching --samples 2 ...`. Out: what the script writes until it is ended.
"""

import runpy
import sys
import time

from interventions.results.store import Store

SECONDS = 600
put = Store.put


def put_and_wait(store: Store, *arguments) -> None:
    put(store, *arguments)
    time.sleep(SECONDS)


if __name__ == "__main__":
    Store.put = put_and_wait
    del sys.argv[0]
    runpy.run_module(f"interventions.{sys.argv[0]}", run_name="__main__")
