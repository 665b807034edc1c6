/**
 * What pages load beside their HTML: built with the Worker, held in it, named by content, cached for ever.
 */

import { assets } from '#assets'

/** Names of scripts/build-assets.ts. */
export type AssetName = 'live.js' | 'style.css' | 'verify.js'

/** Where a page finds an asset. */
export function assetUrl(name: AssetName): string {
  return `/assets/${assets[name]?.file ?? name}`
}
