#!/usr/bin/env bash
# Sets everything up, and says what is likely to go wrong on this computer. See start.sh.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/start.sh" --install "$@"
