# Thin: each target is one command that also runs without make. Tools are checked first, in words.
.PHONY: anchor-btc anchor-evm anchor-tsa anchor-all up stop federation demo lab lab-outage lab-kill gates test bench check fmt seal fsck secrets clean install parts tools
STAMP := node_modules/.package-lock.json
NODE := node_modules/.bin/node
NEEDED := node npm openssl python3 git
# Without openssl the node runs too, its timestamp rail off.
up stop federation seal fsck secrets anchor-btc anchor-evm anchor-tsa anchor-all: NEEDED := node npm

up: tools $(STAMP) ; @exec $(NODE) scripts/up.ts $(ARGS)
# CONFIG names keys, so none comes with the source: config/examples has one to start from.
federation: tools $(STAMP) ; @exec $(NODE) scripts/federation.ts $(if $(CONFIG),--federation $(CONFIG)) $(ARGS)
# Ends the node that runs here, and its units.
stop: $(STAMP) ; @scripts/vaultmesh stop $(ARGS)
demo: tools $(STAMP) ; @exec $(NODE) scripts/demo.ts $(ARGS)
lab: tools $(STAMP) ; @exec $(NODE) scripts/lab-federation.ts $(ARGS)
lab-outage: tools $(STAMP) ; @exec $(NODE) scripts/lab-outage.ts $(ARGS)
lab-kill: tools $(STAMP) ; @exec $(NODE) scripts/lab-kill.ts $(ARGS)
gates: parts tools $(STAMP) ; @exec $(NODE) scripts/gates.ts $(ARGS)
test: parts tools $(STAMP) ; @npm test --silent
bench: tools $(STAMP) ; @npm run -s bench -- $(ARGS)
check: $(STAMP) ; @npm run -s check
fmt: $(STAMP) ; @npm run -s format
seal: $(STAMP) ; @scripts/vaultmesh seal
# Of the node that runs here: make up, or vaultmesh selfhost.
anchor-btc anchor-evm anchor-tsa anchor-all: $(STAMP) ; @scripts/vaultmesh anchor $(@:anchor-%=%) $(ARGS)
fsck: $(STAMP) ; @scripts/vaultmesh fsck
secrets: $(STAMP) ; @scripts/vaultmesh secrets init $(ARGS)
# Not .vaultmesh: that is a log with its keys.
clean: ; rm -rf dist coverage .wrangler

install: tools $(STAMP) ;

# Programs of others that tests and gates run; installed where apt is ours to use.
parts: ; @scripts/get-parts.sh

# npm writes the stamp itself: missing without node_modules, older than a lock file that changed.
$(STAMP): package-lock.json | tools
	@echo 'installing packages (npm ci) …' >&2
	@npm ci --no-audit --no-fund --loglevel=error && touch $@

tools:
	@missing=; for tool in $(NEEDED); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then echo "vaultmesh: missing:$$missing. On Debian: apt install nodejs npm openssl python3 git make" >&2; exit 1; fi; \
	major=$$(node -p 'process.versions.node.split(".")[0]'); \
	if [ "$$major" -lt 20 ]; then echo "vaultmesh: node is $$(node -v), at least 20 is needed." >&2; exit 1; fi
