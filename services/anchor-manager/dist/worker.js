// Wakes anchoring by a clock of its own: vaultmesh watch anchors. Options are those of that command.
import { launch } from '../../launch.js'

launch('watch', 'anchors')
