// The node (the plan's name for its process): vaultmesh selfhost. Options and settings are those of that command.
import { launch } from '../../launch.js'

launch('selfhost')
