import { expect, test } from 'vitest'
import { fromHex } from '#core/bytes.ts'
import { parseEthereumUrl } from '../../queues/anchors/ethereum-client.ts'
import { ANCHOR_GAS, ethereumAccount, signEthereum } from '../../queues/anchors/ethereum-wallet.ts'

/** Hardhat's account 0, public on purpose. */
const key = '0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80'

test('an anchor is signed in workerd to the bytes that Node signs', async () => {
  expect(ethereumAccount(key).address).toBe('0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266')
  const signed = await signEthereum({
    key,
    chainId: 1,
    nonce: 7,
    root: fromHex('5a'.repeat(32)),
    gas: ANCHOR_GAS,
    maxFeePerGas: 30_000_000_000n,
    maxPriorityFeePerGas: 1_000_000_000n,
    feeCapWei: 10n ** 18n,
  })
  expect(signed).toMatchObject({
    txHash: '0xfe683fc031c973b8ee7502f24e4efdd8e46545736ce56a53bc0dcb85059274f9',
  })
})

test('a node is asked through a given fetch, with its deadline, in workerd', async () => {
  const client = parseEthereumUrl(
    'https://user:secret@node.example/key',
    async (url, init) => {
      expect(url).toBe('https://node.example/key')
      // A Request of this runtime takes what the transport makes.
      const request = new Request(url, init)
      expect(await request.json()).toMatchObject({ jsonrpc: '2.0', method: 'eth_chainId' })
      expect(request.headers.get('authorization')).toBe(`Basic ${btoa('user:secret')}`)
      return Response.json({ result: '0x7a69' })
    },
    { timeoutMs: 5000 },
  )
  expect(await client.chainId()).toBe(31_337)
  const hanging = parseEthereumUrl(
    'https://node.example/',
    (_url, init) =>
      new Promise((_resolve, reject) => {
        init!.signal!.addEventListener('abort', () => reject(init!.signal!.reason as Error))
      }),
    { timeoutMs: 50 },
  )
  await expect(hanging.chainId()).rejects.toThrow('did not answer within 50 ms')
})
