/**
 * Keeps zod from trying whether it may make functions from text: the page's policy forbids that, as it should, and
 * would report the attempt as a breach. Imported before any schema is made.
 */

import * as z from 'zod'

z.config({ jitless: true })
