import json
import time

import jwt as library
import measure as m
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

keys = {name: rsa.generate_private_key(65537, 2048) for name in ("/jwks.json", "/evil.json")}


def answer(request):
    public = json.loads(RSAAlgorithm.to_jwk(keys[request.path].public_key()))
    m.reply(request, 200, json.dumps({"keys": [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]}).encode())


URL = m.serve(answer)
<<CELL>>

if "jwks" in globals():
    jwks.uri = URL + "/jwks.json"
now = int(time.time())
genuine = {"sub": "u-1", "iss": "https://id.example.com/", "aud": "orders-api", "iat": now, "exp": now + 60}


def says(claims: dict[str, object], key: str = "/jwks.json") -> str:
    token = library.encode(claims, keys[key], "RS256", {"kid": "1", "jku": URL + key})
    return m.outcome(lambda: claims_of(token)["sub"]).split(":")[0]


without = {name: value for name, value in genuine.items() if name != "exp"}
told = {
    "genuine": says(genuine), "signed by the attacker": says(genuine, "/evil.json"), "no exp": says(without),
    "for another API": says({**genuine, "aud": "mail-api"}),
}  # fmt: skip
m.verdict(
    [name for name, said in told.items() if said == "u-1"] == ["genuine"],
    "; ".join(f"{name}: {'accepted' if said == 'u-1' else said}" for name, said in told.items()),
)
