// An OpenID Connect issuer, npm's oidc-provider, for the identity tests: it prints its URL, and gives
// tokens signed with ES256 to the client `alice`.
import { createServer } from "node:http"
import { exportJWK, generateKeyPair } from "jose"
import Provider from "oidc-provider"

const AUDIENCE = "https://relay.example"

const resource = {
  scope: "notes",
  audience: AUDIENCE,
  accessTokenTTL: 600,
  accessTokenFormat: "jwt",
  jwt: { sign: { alg: "ES256" } },
}

async function provider(issuer, kid) {
  const { privateKey } = await generateKeyPair("ES256", { extractable: true })
  const jwk = { ...(await exportJWK(privateKey)), use: "sig", alg: "ES256", kid }
  return new Provider(issuer, {
    jwks: { keys: [jwk] },
    clients: [
      {
        client_id: "alice",
        client_secret: "the-secret-of-alice",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: "ES256",
      },
    ],
    scopes: ["notes"],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => AUDIENCE,
        getResourceServerInfo: () => resource,
      },
    },
    extraTokenClaims: () => ({
      groups: ["dev"],
      landfall: [{ spaces: "team-*", rights: ["write", "create"] }],
    }),
  })
}

let handle
const server = createServer((request, response) => handle(request, response))
server.listen(0, "127.0.0.1", async () => {
  const issuer = `http://127.0.0.1:${server.address().port}`
  handle = (await provider(issuer, "first")).callback()
  console.log(issuer)
})
