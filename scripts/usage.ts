/**
 * What the commands that run until they are stopped take; apart from them, because they pull in the whole runtime.
 */

/** Of `vaultmesh up` and `make up`. */
export const UP_USAGE = `[--home DIR] [--port 7077] [--tsa-port 7078] [--btc-port 7079] [--evm-port 7080] [--oidc-port 7081] [--without PARTS] [--once]

Run a devnet node with its own chains, timestamp authority and sign-in, and show it at work.

  --home DIR        its keys, log and trust.json (default $VAULTMESH_HOME or .vaultmesh): one node a home
  --port N          where it answers (default 7077)
  --tsa-port N      where its timestamp authority answers (default 7078)
  --btc-port N      where its bitcoind answers (default 7079; regtest)
  --evm-port N      where its anvil answers (default 7080)
  --oidc-port N     where its OpenID provider answers (default 7081; no passwords). OIDC_ISSUER names another one
  --without PARTS   leave out btc, evm, tsa or oidc, comma-separated
  --once            stop after the first event instead of serving until Ctrl-C
  with make: make up ARGS="--without btc"`

/** Of `make demo` and `make lab-outage`. */
export const SHOW_USAGE = `[--without PARTS] [--keep]

  --without PARTS   leave out btc, evm or tsa, comma-separated
  --keep            keep its temporary folder, and say where it is
  Ports are chosen by itself; receipts stay in anchors/receipts.`

/** Of `make federation`. */
export const FEDERATION_USAGE = `[CONFIG=config/federation.yaml] [ARGS="--home DIR --port 7077 …"]

  CONFIG            with whom it gossips and under which law (default config/federation.yaml, or
                    federation/config.yaml); followed while the node runs. Start from
                    config/examples/federation.config.yaml
  ARGS              as vaultmesh selfhost takes them
  Without the file it tells what the node's peers must write down of it, and ends with 1.`

/** Of `make lab`. */
export const LAB_USAGE = `[--keep]

  --keep            keep its temporary folder, and say where it is
  Three nodes on one devnet. Bitcoin, an EVM chain and openssl must all be here. Ports are chosen by itself.`

/** Of `make lab-kill`. */
export const KILL_USAGE = `[--kills 200] [--seed N] [--keep]

  --kills N         how often the node dies (default 200)
  --seed N          draws moments and manners again as they were
  --keep            keep its temporary folder, and say where it is
  Bitcoin, an EVM chain, openssl and sops must all be here. Ports are chosen by itself.`

/** Of `make gates`. */
export const GATES_USAGE = `[--only 1,3] [--json] [--quiet]

  --only N,N        these of the five gates
  --json            one JSON value on stdout, progress on stderr
  --quiet           the table alone
  Bitcoin, an EVM chain, openssl, Prometheus, Alertmanager, systemd and Caddy must be here: docs/gates.md.`
