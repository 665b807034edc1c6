// Anchors the newest root of the node here on EVM now: vaultmesh anchor evm. Options are those of that command.
import { launch } from '../services/launch.js'

launch('anchor', 'evm')
