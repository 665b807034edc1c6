#!/bin/bash
# Brings a real bitcoind (Debian's bitcoin-knots, same RPC as Bitcoin Core) into a folder of its own.
# Usage: get-bitcoind.sh DEST   ->   DEST/bin/{bitcoind,bitcoin-cli}
#
# Debian has it in unstable only, linked to newer libraries than a stable system has. So apt resolves
# it here against an empty system, downloads the node with every library down to libc, checks Debian's
# signatures as always, and the programs are run through the loader that came along. All state of apt
# is private: nothing of the system is read but which mirror and keyring it uses, nothing is changed,
# and root is not needed. DEST appears complete or not at all; of two runs at once, one result stays.
# Every refusal is one line on stderr.
set -euo pipefail
dest=$(realpath -m -- "${1:?usage: get-bitcoind.sh DEST}")
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

refuse() {
  echo "vaultmesh: cannot fetch bitcoind: $*" >&2
  exit 1
}

[ -x "$dest/bin/bitcoind" ] && exit 0
for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || refuse "$tool is missing; put a bitcoind of your own on PATH."
done
[ -r "$keyring" ] || refuse "this is not Debian ($keyring is missing); put a bitcoind of your own on PATH."
mkdir -p -- "$(dirname "$dest")" 2>/dev/null || refuse "$(dirname "$dest") cannot be made; name another folder in VAULTMESH_CACHE."
# What a killed run left behind.
find "$(dirname "$dest")" -maxdepth 1 -name "$(basename "$dest").part.*" -mmin +60 -exec rm -rf {} + 2>/dev/null || true
part=$(mktemp -d "$dest.part.XXXXXX" 2>/dev/null) || refuse "$(dirname "$dest") is not writable; name another folder in VAULTMESH_CACHE."
trap 'rm -rf -- "$part"' EXIT
trap 'exit 1' INT TERM HUP
apt=$part/apt
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$part/root" "$part/bin"
: >"$apt/state/status"
# Options on the command line win over the system's configuration, of which a proxy stays in force.
options=(
  -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
  -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/state/status"
  -o "Dir::Cache=$apt/cache" -o "Dir::Log=$apt" -o APT::Sandbox::User=
  -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
  -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o Acquire::Retries=1
)

# Which of this system's sources mirror Debian only their signature can tell: they are tried in turn.
mirrors=$(apt-get update --print-uris 2>/dev/null | sed -nE "s|^'([^']+)/dists/[a-z]+/InRelease'.*|\1|p" | sort -u)
[ -n "$mirrors" ] || refuse "apt has no sources here."
found=
for mirror in $mirrors; do
  echo "deb [signed-by=$keyring] $mirror sid main" >"$apt/sources.list"
  if apt-get "${options[@]}" -q update >>"$apt/log" 2>&1 &&
    apt-cache "${options[@]}" show bitcoin-knots >/dev/null 2>&1; then
    found=1
    break
  fi
done
why() { { grep -E '^[EW]:' "$apt/log" || echo 'apt does not say why'; } | head -1 | cut -c1-200; }
[ -n "$found" ] || refuse "the mirror of this system's apt does not give it (no network?): $(why)"
# It wants one of two packages to make its user with; the one named is the small one.
apt-get "${options[@]}" -q -y --no-install-recommends --download-only \
  install bitcoin-knots systemd-standalone-sysusers >>"$apt/log" 2>&1 || refuse "$(why)"

for package in "$apt"/cache/archives/*.deb; do
  dpkg-deb -x "$package" "$part/root" >>"$apt/log" 2>&1 || refuse "$(tail -1 "$apt/log")"
done
(cd "$apt/cache/archives" && sha256sum -- *.deb) >"$part/SHA256SUMS"
loader=$(cd "$part" && find root -name 'ld-linux-*.so.*' | head -1)
[ -n "$loader" ] || refuse "libc6 came without a loader."
for program in bitcoind bitcoin-cli; do
  cat >"$part/bin/$program" <<WRAPPER
#!/bin/sh
unset LD_PRELOAD
here=\$(dirname "\$(readlink -f "\$0")")/..
exec "\$here/$loader" --library-path "\$here/$(dirname "$loader")" "\$here/root/usr/bin/$program" "\$@"
WRAPPER
  chmod 755 "$part/bin/$program"
done
rm -rf "$apt" "$part/root/usr/share" "$part/root/etc" "$part/root/var"
chmod 755 "$part"
"$part/bin/bitcoind" --version >"$part/VERSION" 2>&1 || refuse "it does not run here: $(head -1 "$part/VERSION")"
# rename(2) does not replace a folder that has something in it: then another run was faster.
mv -T -- "$part" "$dest" 2>/dev/null || [ -x "$dest/bin/bitcoind" ] || refuse "$dest cannot be made."
