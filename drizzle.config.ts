import { defineConfig } from 'drizzle-kit'

export default defineConfig({
  dialect: 'sqlite',
  schema: './functions/store/schema.ts',
  out: './migrations',
})
