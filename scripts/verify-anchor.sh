#!/bin/sh
# Is this root anchored, verified and final? The plan's command; vaultmesh verify-anchor --help says more.
exec "$(dirname "$(readlink -f "$0")")/vaultmesh" verify-anchor "$@"
