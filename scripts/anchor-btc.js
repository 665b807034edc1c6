// Anchors the newest root of the node here on BTC now: vaultmesh anchor btc. Options are those of that command.
import { launch } from '../services/launch.js'

launch('anchor', 'btc')
