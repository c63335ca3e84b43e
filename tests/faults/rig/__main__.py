"""`python tests/faults/rig`: tries faults, see faults.py."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # here `rig` is found; processes that are forked get it too
    from rig.faults import main

    main()
