// A real OpenID Connect provider on loopback: node-oidc-provider with its own pages to sign in at.
//   node provider.mjs '{"port": 0, "accounts": {...}, "clients": [...]}'
// Says `ready PORT` once it listens.
import { createServer } from "node:http";
import { generateKeyPair, exportJWK } from "jose";
import Provider from "oidc-provider";

const { port, accounts, clients } = JSON.parse(process.argv[2]);

async function signingKey(alg, kid) {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...(await exportJWK(privateKey)), alg, kid, use: "sig" };
}

const server = createServer();
server.listen(port, "127.0.0.1", async () => {
  const taken = server.address().port;
  // Other keys at each start, as after a rotation.
  const start = Date.now();
  const provider = new Provider(`http://127.0.0.1:${taken}`, {
    clients,
    jwks: { keys: [await signingKey("RS256", `rsa-${start}`), await signingKey("ES256", `ec-${start}`)] },
    cookies: { keys: ["a test"] },
    claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"] },
    pkce: { required: () => true },
    features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
    findAccount: (_, id) =>
      id in accounts ? { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) } : undefined,
  });
  server.on("request", provider.callback());
  console.log(`ready ${taken}`);
});
