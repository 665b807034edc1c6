#!/bin/bash
# Real programs that tests and gates run beside the node: installs with apt what is missing if it may (root on Debian),
# else says what that is. Programs that a service manager would start on every address are masked first. Always exits 0: who
# needs a part says so, and a test without it is skipped in words.
set -uo pipefail
wanted=() services=()
has() { command -v "$1" >/dev/null; }
has make && has openssl && has python3 && has git || wanted+=(ca-certificates make openssl python3 git)
# Reads our proofs and files.
has age || wanted+=(age)
/usr/bin/python3 -c 'import opentimestamps' 2>/dev/null || wanted+=(python3-opentimestamps)
# Watches a node, and calls.
has promtool && has amtool || { wanted+=(prometheus prometheus-alertmanager); services+=(prometheus prometheus-alertmanager); }
# Stands in front of a node, keeps it running, and asks it.
has caddy || { wanted+=(caddy); services+=(caddy); }
has systemd-analyze && [ -x /lib/systemd/systemd ] || wanted+=(systemd)
has systemd-nspawn || wanted+=(systemd-container)
has curl || wanted+=(curl)
# The browser that the pages are tested in, with a font to draw them.
has chromium || wanted+=(chromium fonts-dejavu-core)
[ ${#wanted[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! has apt-get; then
  echo "vaultmesh: missing, so what needs it is skipped: apt install ${wanted[*]}" >&2
  exit 0
fi
# Where there is no init to start services, apt starts none.
if [ -d /run/systemd/system ] && [ ${#services[@]} -gt 0 ]; then systemctl mask "${services[@]}" >&2 || true; fi
export DEBIAN_FRONTEND=noninteractive
echo "vaultmesh: installing ${wanted[*]} …" >&2
apt-get update -qq >&2 || true
for package in "${wanted[@]}"; do
  apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 ||
    echo "vaultmesh: $package cannot be installed: what needs it is skipped" >&2
done
exit 0
