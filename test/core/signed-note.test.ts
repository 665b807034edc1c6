import {
  createPrivateKey,
  createPublicKey,
  sign as nodeSign,
  verify as nodeVerify,
} from 'node:crypto'
import { ed25519 } from '@noble/curves/ed25519.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concat, fromHex, toBase64, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  MAX_NOTE_BYTES,
  MAX_SIGNATURES,
  TYPE_COSIGNATURE,
  TYPE_ED25519,
  cosignText,
  cosignatureMessage,
  formatNote,
  formatSignature,
  formatVkey,
  keyIdOf,
  parseNote,
  parseSignatures,
  parseVkey,
  sameKey,
  signText,
  verifierKey,
  verifyNote,
} from '#core/signed-note.ts'
import type { NoteSigner } from '#core/signed-note.ts'
import vectors from '../vectors/signed-note.json' with { type: 'json' }

function signer(
  name: string,
  seedByte: number,
  type: typeof TYPE_ED25519 | typeof TYPE_COSIGNATURE = TYPE_ED25519,
): NoteSigner {
  const seed = new Uint8Array(32).fill(seedByte)
  return {
    key: verifierKey(name, ed25519.getPublicKey(seed), type),
    sign: async (message) => ed25519.sign(message, seed),
  }
}

const text = 'origin.example/log\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n'
const log = signer('origin.example/log', 1)
const witness = signer('witness.example', 2, TYPE_COSIGNATURE)

const refusal = (run: () => unknown): unknown => {
  try {
    run()
  } catch (error) {
    if (error instanceof VaultMeshError) return error.code
    throw error
  }
  return 'accepted'
}

describe('published notes', () => {
  test.each(vectors.notes)('$name: parses, verifies and is written back', async (v) => {
    const note = `${v.text}\n${v.signatures}`
    const parsed = parseNote(utf8(note))
    expect(parsed.text).toBe(v.text)
    expect(formatNote(parsed)).toBe(note)
    const keys = v.vkeys.map(parseVkey)
    expect((await verifyNote(parsed, keys)).map(({ key }) => formatVkey(key))).toEqual(v.vkeys)
    expect(await verifyNote(parsed, keys.slice(0, 1))).toHaveLength(1)
    await expect(verifyNote(parsed, [])).rejects.toMatchObject({ code: 'untrusted-key' })
    const forged = { ...parsed, text: v.text.replace('i', 'l') }
    await expect(verifyNote(forged, keys)).rejects.toMatchObject({ code: 'bad-note' })
  })

  test('signing with the published seed gives the published signature', async () => {
    const v = vectors.notes.find(({ seed }) => seed !== undefined)!
    const key = parseVkey(v.vkeys.at(0)!)
    const seed = fromHex(v.seed!)
    const signature = await signText(v.text, { key, sign: async (m) => ed25519.sign(m, seed) })
    expect(v.signatures.startsWith(formatSignature(signature))).toBe(true)
  })

  test.each([...vectors.vkeys, ...vectors.notes.flatMap((v) => v.vkeys)])(
    'vkey %s is written back',
    (vkey) => {
      const key = parseVkey(vkey)
      expect(formatVkey(key)).toBe(vkey)
      expect(key.keyId).toBe(keyIdOf(key.name, key.type, key.publicKey))
      expect(sameKey(key, parseVkey(vkey))).toBe(true)
      expect(sameKey(key, log.key)).toBe(false)
    },
  )
})

describe('a verifier key', () => {
  test('splits at the first two plus signs only, and keeps a type it does not know', () => {
    const vkey = 'example.com/foo+00000000+++++++++++++++++++++++++++++++++++++++++++++'
    const key = parseVkey(vkey)
    expect(key).toMatchObject({ name: 'example.com/foo', keyId: 0, type: 0xfb })
    expect(formatVkey(key)).toBe(vkey)
  })

  const good = formatVkey(log.key)
  test.each([
    '',
    '+',
    '++',
    good.slice(0, -1),
    good.replace('log+', 'l g+'),
    good.replace('log+', '+'),
    good.replace(/\+[0-9a-f]{8}/, '+00000000'),
    good.toUpperCase(),
    `${good}\n`,
    ` ${good}`,
    'a+00000000+',
    'a+00000000+AQ==',
    'a+00000000+AQE=',
    'a+0000000+AQEB',
    '+00000000+AQEB',
    'a\u0001+00000000+AgEB',
    'a\u2003b+00000000+AgEB',
  ])('spelt %j is refused', (vkey) => {
    expect(refusal(() => parseVkey(vkey))).toBe('bad-note')
  })

  test('of another length than 32 bytes is not made', () => {
    expect(refusal(() => verifierKey('a', new Uint8Array(31)))).toBe('bad-note')
    expect(refusal(() => verifierKey('a b', new Uint8Array(32)))).toBe('bad-note')
  })
})

describe('parsing', () => {
  const line = '\u2014 a AAAAAQE=\n'
  test('the text ends at the last empty line and may hold others', () => {
    const parsed = parseNote(`one\n\n\ntwo\n\n${line}${line}`)
    expect(parsed.text).toBe('one\n\n\ntwo\n')
    expect(parsed.signatures).toHaveLength(2)
    expect(parsed.signatures[0]).toEqual({ name: 'a', keyId: 1, signature: Uint8Array.of(1) })
  })

  test.each([
    ['no empty line', `x\n${line}`],
    ['no signature', 'x\n\n'],
    ['no final newline', `x\n\n${line.trim()}`],
    ['nothing', ''],
    ['a carriage return', `x\r\n\n${line}`],
    ['a tab', `x\ty\n\n${line}`],
    ['a NUL', `x\0\n\n${line}`],
    ['a hyphen for the dash', `x\n\n- a AAAAAQE=\n`],
    ['two spaces', `x\n\n\u2014  a AAAAAQE=\n`],
    ['a trailing space', `x\n\n\u2014 a AAAAAQE= \n`],
    ['no name', `x\n\n\u2014 AAAAAQE=\n`],
    ['a plus in the name', `x\n\n\u2014 a+b AAAAAQE=\n`],
    ['a no-break space in the name', `x\n\n\u2014 a\u00a0b AAAAAQE=\n`],
    ['a next-line control in the name', `x\n\n\u2014 a\u0085b AAAAAQE=\n`],
    ['unpadded base64', `x\n\n\u2014 a AAAAAQE\n`],
    ['loose base64', `x\n\n\u2014 a AAAAAQF=\n`],
    ['only a key ID', `x\n\n\u2014 a AAAAAQ==\n`],
    ['a line that is no signature', `x\n\n${line}y\n`],
    ['a lone surrogate', `x\ud800\n\n${line}`],
    ['too many signatures', `x\n\n${line.repeat(MAX_SIGNATURES + 1)}`],
    ['more than 1 MiB', `${'x'.repeat(MAX_NOTE_BYTES)}\n\n${line}`],
  ])('%s is refused', (_, note) => {
    expect(refusal(() => parseNote(note))).toBe('bad-note')
  })

  test('bytes that are not UTF-8 are refused; a byte order mark is text', () => {
    expect(refusal(() => parseNote(concat(Uint8Array.of(0xff), utf8(`\n\n${line}`))))).toBe(
      'bad-note',
    )
    expect(parseNote(utf8(`\ufeffx\n\n${line}`)).text).toBe('\ufeffx\n')
  })

  test('as many signatures as allowed are read, and no newline is lost at the end', () => {
    expect(parseNote(`x\n\n${line.repeat(MAX_SIGNATURES)}`).signatures).toHaveLength(MAX_SIGNATURES)
    expect(parseSignatures(line)).toHaveLength(1)
    expect(refusal(() => parseSignatures(''))).toBe('bad-note')
  })

  test('whatever parses is written back as it was, and nothing else is ever thrown', () => {
    const part = fc.constantFrom(
      'x',
      '\n',
      '\n\n',
      line,
      '\u2014 ',
      ' ',
      '+',
      'AAAAAQE=',
      formatVkey(log.key),
      '\u0085',
    )
    const notes = fc.oneof(
      fc.array(part).map((p) => p.join('')),
      fc.array(part).map((p) => `x\n\n${p.join('')}${line}`),
    )
    fc.assert(
      fc.property(notes, (note) => {
        try {
          expect(formatNote(parseNote(note))).toBe(note)
        } catch (error) {
          expect(error).toBeInstanceOf(VaultMeshError)
        }
      }),
      { numRuns: 1000 },
    )
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 200 }),
        fc.string({ unit: 'binary' }),
        (bytes, string) => {
          for (const run of [
            () => parseNote(bytes),
            () => parseNote(string),
            () => parseVkey(string),
          ])
            refusal(run)
        },
      ),
    )
  })

  test('what could not be read back is not written', () => {
    const signature = { name: 'a', keyId: 1, signature: Uint8Array.of(1) }
    for (const note of [
      { text: 'x', signatures: [signature] },
      { text: 'x\n', signatures: [] },
      { text: 'x\r\n', signatures: [signature] },
      { text: 'x\n', signatures: [{ ...signature, name: 'a b' }] },
      { text: 'x\n', signatures: [{ ...signature, signature: new Uint8Array(0) }] },
    ]) {
      expect(refusal(() => formatNote(note))).toBe('bad-note')
    }
  })
})

describe('signatures', () => {
  test('of ours verify in node:crypto, and those of node:crypto verify here', async () => {
    const seed = new Uint8Array(32).fill(9)
    const der = concat(fromHex('302e020100300506032b657004220420'), seed)
    const secret = createPrivateKey({ key: Buffer.from(der), format: 'der', type: 'pkcs8' })
    const name = 'origin.example/log'
    const ours = {
      key: verifierKey(name, ed25519.getPublicKey(seed)),
      sign: async (m: Uint8Array) => ed25519.sign(m, seed),
    }
    const theirs = {
      key: ours.key,
      sign: async (m: Uint8Array) => new Uint8Array(nodeSign(null, m, secret)),
    }
    const signature = await signText(text, ours)
    expect(nodeVerify(null, utf8(text), createPublicKey(secret), signature.signature)).toBe(true)
    expect(await signText(text, theirs)).toEqual(signature)
    expect(await verifyNote({ text, signatures: [signature] }, [ours.key])).toHaveLength(1)
  })

  test('of a witness carry their time and sign it', async () => {
    const signature = await cosignText(text, witness, 1_700_000_000)
    expect(signature.signature.length).toBe(72)
    const [found] = await verifyNote({ text, signatures: [signature] }, [witness.key])
    expect(found).toMatchObject({ key: witness.key, timestamp: 1_700_000_000 })
    expect(new TextDecoder().decode(cosignatureMessage(text, 7))).toBe(
      `cosignature/v1\ntime 7\n${text}`,
    )
    for (let i = 0; i < signature.signature.length; i++) {
      const tampered = { ...signature, signature: signature.signature.slice() }
      tampered.signature[i] = tampered.signature.at(i)! ^ 1
      const note = { text, signatures: [tampered] }
      await expect(verifyNote(note, [witness.key])).rejects.toMatchObject({ code: 'bad-note' })
    }
  })

  test('with any bit flipped in text or signature condemn the note', async () => {
    const signature = await signText(text, log)
    for (let i = 0; i < 64; i++) {
      const tampered = { ...signature, signature: signature.signature.slice() }
      tampered.signature[i] = tampered.signature.at(i)! ^ (1 << (i % 8))
      await expect(verifyNote({ text, signatures: [tampered] }, [log.key])).rejects.toMatchObject({
        code: 'bad-note',
      })
    }
    await expect(
      verifyNote({ text: `${text}x\n`, signatures: [signature] }, [log.key]),
    ).rejects.toMatchObject({ code: 'bad-note' })
  })

  test('that are right do not save a note with one that is wrong', async () => {
    const good = await signText(text, log)
    const bad = { ...(await cosignText(text, witness, 5)), signature: new Uint8Array(72) }
    const note = { text, signatures: [good, bad] }
    expect(await verifyNote(note, [log.key])).toHaveLength(1)
    await expect(verifyNote(note, [log.key, witness.key])).rejects.toMatchObject({
      code: 'bad-note',
    })
    const short = { ...bad, signature: new Uint8Array(64) }
    await expect(
      verifyNote({ text, signatures: [good, short] }, [log.key, witness.key]),
    ).rejects.toMatchObject({ code: 'bad-note' })
  })

  test('of a key that shares only its name, or only its ID, are passed over', async () => {
    const good = await signText(text, log)
    const other = signer('origin.example/log', 3)
    const junk = new Uint8Array(64)
    const strangers = [
      { name: log.key.name, keyId: other.key.keyId, signature: junk },
      { name: 'else.example', keyId: log.key.keyId, signature: junk },
    ]
    expect(await verifyNote({ text, signatures: [...strangers, good] }, [log.key])).toHaveLength(1)
    await expect(verifyNote({ text, signatures: strangers }, [log.key])).rejects.toMatchObject({
      code: 'untrusted-key',
    })
  })

  test('of an unknown type verify nothing, even of a trusted key', async () => {
    const key = { ...log.key, type: 0x06 }
    const good = await signText(text, log)
    await expect(verifyNote({ text, signatures: [good] }, [key])).rejects.toMatchObject({
      code: 'untrusted-key',
    })
  })

  test('are counted by key: the latest of a witness stands', async () => {
    const signatures = await Promise.all([20, 30, 10].map((at) => cosignText(text, witness, at)))
    const found = await verifyNote({ text, signatures }, [witness.key, witness.key])
    expect(found.map(({ timestamp }) => timestamp)).toEqual([30])
  })

  test('of sixteen keys are all verified', async () => {
    const many = Array.from({ length: 16 }, (_, i) =>
      signer(`w${i}.example`, 40 + i, TYPE_COSIGNATURE),
    )
    const signatures = await Promise.all(many.map((w) => cosignText(text, w, 1)))
    const note = parseNote(formatNote({ text, signatures }))
    expect(
      await verifyNote(
        note,
        many.map(({ key }) => key),
      ),
    ).toHaveLength(16)
  })

  test('are not given by a signer that holds another key, of another type or at no time', async () => {
    const mixedUp = { key: log.key, sign: signer('x', 77).sign }
    await expect(signText(text, mixedUp)).rejects.toMatchObject({ code: 'bad-note' })
    await expect(signText(text, witness)).rejects.toMatchObject({ code: 'bad-note' })
    await expect(cosignText(text, log, 1)).rejects.toMatchObject({ code: 'bad-note' })
    for (const at of [0, -1, 1.5, 2 ** 53]) {
      await expect(cosignText(text, witness, at)).rejects.toMatchObject({ code: 'bad-note' })
    }
    await expect(signText('no newline', log)).rejects.toMatchObject({ code: 'bad-note' })
  })

  test('past 2^53 seconds and under keys off the curve are refused, not crashed on', async () => {
    const far = concat(new Uint8Array(8).fill(0xff), new Uint8Array(64))
    const late = { name: witness.key.name, keyId: witness.key.keyId, signature: far }
    await expect(verifyNote({ text, signatures: [late] }, [witness.key])).rejects.toMatchObject({
      code: 'bad-note',
    })
    const nowhere = parseVkey(formatVkey(verifierKey('a', new Uint8Array(32).fill(0xff))))
    const sig = { name: 'a', keyId: nowhere.keyId, signature: new Uint8Array(64) }
    await expect(verifyNote({ text, signatures: [sig] }, [nowhere])).rejects.toMatchObject({
      code: 'bad-note',
    })
    expect(toBase64(nowhere.publicKey)).toHaveLength(44)
  })
})
