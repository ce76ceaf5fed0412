#!/usr/bin/env bash
# Sets up what is not there yet, and starts: bash start.sh --help
# Run on Linux; not run on macOS, nor with an NVIDIA card.
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit 2
fits='import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) and sys.maxsize > 2**32))'
for python in python3 python python3.13 python3.12 python3.14 python3.11; do
    if "$python" -c "$fits" >/dev/null 2>&1; then
        exec "$python" "$here/tools/launch.py" "$@"
    fi
done
echo "error: No Python 3.11 to 3.14 (64 bits) was found." >&2
echo "  Install one from https://www.python.org/downloads or with your system's package manager, and start again." >&2
exit 2
