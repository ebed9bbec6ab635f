import time, pathlib
import jwt  # pip install PyJWT

secret = pathlib.Path("secret").read_text().strip()

def hark_token(user):
    iat = int(time.time())
    claims = {"iss": "https://app.example", "aud": "hark", "sub": user, "iat": iat, "exp": iat + 300}
    return jwt.encode(claims, secret, algorithm="HS256")
