/**
 * /verify: a receipt is checked in the visitor's browser, without this server. Its form is of use only where scripts
 * run, so it is hidden until the script shows it; without one the page says how to verify by command line.
 */

import { Page } from './layout.tsx'

/** The files it takes: what each is for, and what its name may end in. */
const SLOTS = [
  {
    kind: 'receipt',
    name: 'Receipt',
    why: 'JSON, or a .tlog-proof file',
    accept: '.json,.tlog-proof,.txt',
  },
  {
    kind: 'event',
    name: 'Event',
    why: 'optional: its signed bytes prove who signed it',
    accept: '.jws,.jose,.txt',
  },
  {
    kind: 'trust',
    name: 'Trust file',
    why: 'optional: whose keys you believe',
    accept: '.json,.pem,.txt',
  },
] as const

/** The page. */
export function VerifyPage() {
  return (
    <Page title="Verify a receipt" scripts={['verify.js']}>
      <p class="proof-lead">
        Your browser verifies the file by itself: each hash is computed and each signature checked
        here. Nothing is uploaded; this page’s own security policy forbids it to send anything to
        anybody.
      </p>
      <noscript>
        <p class="notice warn">
          Verifying here needs JavaScript. By command line: vaultmesh verify receipt.json event.jws
          --trust trust.json
        </p>
      </noscript>
      <div class="proof-page">
        <form id="verify-files" class="card proof-files" aria-label="Files" hidden>
          {SLOTS.map(({ kind, name, why, accept }) => (
            <div class={`proof-slot ${kind}`} data-kind={kind}>
              <label>
                <input class="unseen" type="file" accept={accept} />
                <span class="proof-name">{name}</span>
                <span class="note">{why}</span>
                <span class="proof-choose">Choose a file</span>
              </label>
              <output />
            </div>
          ))}
          <label class="proof-paste">
            <span class="note">or paste a trust file, or a log’s key (name+hex+base64)</span>
            <textarea
              name="pins"
              rows={3}
              maxlength={262_144}
              autocomplete="off"
              spellcheck={false}
            />
          </label>
          <p class="note">
            You can also drop files anywhere on this page. A trust file is what{' '}
            <code>vaultmesh trust URL -o trust.json</code> saves: keep one from a day on which you
            trusted the node.
          </p>
          <p class="note">
            This page and its script came from this server. If you doubt it, take the same files to{' '}
            <code>vaultmesh verify</code>, or to the /verify of another node.
          </p>
        </form>
        <section class="card" aria-labelledby="verify-title">
          <h2 id="verify-title" class="unseen">
            Result
          </h2>
          <div id="verify-result" />
        </section>
      </div>
    </Page>
  )
}
