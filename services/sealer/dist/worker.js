// Wakes sealing by a clock of its own: vaultmesh watch sealer. Options are those of that command.
import { launch } from '../../launch.js'

launch('watch', 'sealer')
