/** Made by scripts/build-assets.ts before the Worker is bundled. */
declare module '#assets' {
  /** By the name that pages use. */
  export const assets: Readonly<
    Record<
      string,
      {
        /** Its name in a URL: with the hash of its text. */
        readonly file: string
        readonly type: string
        readonly text: string
      }
    >
  >
}
