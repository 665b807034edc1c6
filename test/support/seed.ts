/**
 * One seed for every property test, so that a run can be repeated; FAST_CHECK_SEED=<number> explores another.
 * A failing property prints its own seed and path as well.
 */

import * as fc from 'fast-check'

const seed = Number(process.env['FAST_CHECK_SEED'] ?? 20_261_123)
fc.configureGlobal({ ...fc.readConfigureGlobal(), seed })
