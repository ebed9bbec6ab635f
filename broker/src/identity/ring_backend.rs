//! The backend that `jsonwebtoken` signs and verifies with: `ring`, which TLS brings anyway. Owns which algorithms there are and which
//! keys fit them; the arithmetic is ring's.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    self as sig, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use ring::{hmac, rsa};

/// The fewest bytes of an HS256 secret (RFC 7518, section 3.2).
pub(crate) const MIN_SECRET_BYTES: usize = 32;
/// The bytes of an RSA modulus: 2048 bits are the fewest (RFC 7518, section 3.3), 8192 the most that ring takes.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Puts ring beneath `jsonwebtoken`, for the whole process. Before the first token is made or judged.
pub(crate) fn install() {
    static BACKEND: CryptoProvider = CryptoProvider {
        signer_factory: |algorithm, key| {
            let key = PrivateKey::new(*algorithm, key).ok_or(ErrorKind::InvalidKeyFormat)?;
            Ok(Box::new(key))
        },
        verifier_factory: |algorithm, key| {
            let (algorithm, key) = (*algorithm, key.clone());
            Ok(Box::new(PublicKey { algorithm, key }))
        },
        // Of use only to those who make JWKs.
        key_utils: KeyUtils::new_unimplemented(),
    };
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if BACKEND.install_default().is_err() {
            tracing::warn!("tokens are verified by another backend than ring");
        }
    });
}

/// Whether `key` can verify `algorithm`; if not, why.
pub(super) fn check(algorithm: Algorithm, key: &DecodingKey) -> Result<(), String> {
    let family = match key.family() {
        AlgorithmFamily::Hmac => "a secret",
        AlgorithmFamily::Rsa => "an RSA key",
        AlgorithmFamily::Ec => "an elliptic-curve key",
        AlgorithmFamily::Ed => "an Edwards-curve key",
    };
    if key.family() != algorithm.family() {
        return Err(format!("is {family}, which {algorithm:?} cannot use"));
    }
    let (fits, wanted) = match (algorithm, key.kind()) {
        (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => (
            secret.len() >= MIN_SECRET_BYTES,
            "is too short: HS256 needs a secret of 32 bytes or more",
        ),
        (Algorithm::RS256, kind) => {
            let modulus = match kind {
                DecodingKeyKind::RsaModulusExponent { n, .. } => Some(&**n),
                DecodingKeyKind::SecretOrDer(der) => rsa_modulus(der),
            };
            let bytes = modulus.map(|n| n.iter().skip_while(|byte| **byte == 0).count());
            (
                bytes.is_some_and(|bytes| RSA_MODULUS_BYTES.contains(&bytes)),
                "is no RSA public key of 2048 to 8192 bits",
            )
        }
        // An uncompressed point (SEC 1, section 2.3.3).
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => (
            point.len() == 65 && point.first() == Some(&4),
            "is no key of the curve P-256, which ES256 needs",
        ),
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => (
            point.len() == 32,
            "is no key of the curve Ed25519, which EdDSA needs here",
        ),
        _ => (false, "is for an algorithm that Hark does not take"),
    };
    match fits {
        true => Ok(()),
        false => Err(wanted.to_owned()),
    }
}

/// The first integer of a PKCS#1 key: `SEQUENCE { INTEGER n, INTEGER e }` (RFC 8017, appendix A.1.1).
fn rsa_modulus(der: &[u8]) -> Option<&[u8]> {
    fn content(tag: u8, der: &[u8]) -> Option<&[u8]> {
        let rest = der.strip_prefix(&[tag])?;
        let (&first, rest) = rest.split_first()?;
        let more = usize::from(first.saturating_sub(0x80));
        let (length, rest) = rest.split_at_checked(more)?;
        let length = match (first, length) {
            (0..0x80, _) => usize::from(first),
            (_, [a]) => usize::from(*a),
            (_, [a, b]) => usize::from(u16::from_be_bytes([*a, *b])),
            _ => return None,
        };
        rest.get(..length)
    }
    content(0x02, content(0x30, der)?)
}

struct PublicKey {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for PublicKey {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (self.algorithm, self.key.kind()) {
            _ if self.algorithm.family() != self.key.family() => Err(ring::error::Unspecified),
            (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => hmac::verify(
                &hmac::Key::new(hmac::HMAC_SHA256, secret),
                message,
                signature,
            ),
            (Algorithm::RS256, DecodingKeyKind::SecretOrDer(der)) => {
                UnparsedPublicKey::new(&sig::RSA_PKCS1_2048_8192_SHA256, der)
                    .verify(message, signature)
            }
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(
                    &sig::RSA_PKCS1_2048_8192_SHA256,
                    message,
                    signature,
                )
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&sig::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&sig::ED25519, point).verify(message, signature)
            }
            _ => Err(ring::error::Unspecified),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for PublicKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

enum PrivateKey {
    Hmac(hmac::Key),
    Rsa(Box<rsa::KeyPair>),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    fn new(algorithm: Algorithm, key: &EncodingKey) -> Option<Self> {
        if key.family() != algorithm.family() {
            return None;
        }
        let bytes = key.as_bytes();
        match algorithm {
            Algorithm::HS256 => Some(Self::Hmac(hmac::Key::new(hmac::HMAC_SHA256, bytes))),
            Algorithm::RS256 => RsaKeyPair::from_der(bytes)
                .ok()
                .map(|key| Self::Rsa(Box::new(key))),
            Algorithm::ES256 => EcdsaKeyPair::from_pkcs8(
                &sig::ECDSA_P256_SHA256_FIXED_SIGNING,
                bytes,
                &SystemRandom::new(),
            )
            .ok()
            .map(Self::Ecdsa),
            // Without the public half, as openssl writes them.
            Algorithm::EdDSA => Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes)
                .ok()
                .map(Self::Ed25519),
            _ => None,
        }
    }
}

impl Signer<Vec<u8>> for PrivateKey {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let random = SystemRandom::new();
        let failed = |_| signature::Error::new();
        Ok(match self {
            Self::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&sig::RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(failed)?;
                signature
            }
            Self::Ecdsa(key) => key
                .sign(&random, message)
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        })
    }
}

impl JwtSigner for PrivateKey {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Hmac(_) => Algorithm::HS256,
            Self::Rsa(_) => Algorithm::RS256,
            Self::Ecdsa(_) => Algorithm::ES256,
            Self::Ed25519(_) => Algorithm::EdDSA,
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::Jwk;
    use serde_json::json;

    use super::*;

    /// The claims of RFC 7515, appendices A.1 to A.3.
    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    struct Vector {
        algorithm: Algorithm,
        key: DecodingKey,
        message: String,
        signature: &'static str,
    }

    fn key(jwk: serde_json::Value) -> DecodingKey {
        DecodingKey::from_jwk(&serde_json::from_value::<Jwk>(jwk).unwrap()).unwrap()
    }

    fn vectors() -> Vec<Vector> {
        vec![
            // RFC 7515, appendix A.1.
            Vector {
                algorithm: Algorithm::HS256,
                key: key(json!({
                    "kty": "oct",
                    "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
                })),
                message: format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}"),
                signature: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            },
            // RFC 7515, appendix A.2.
            Vector {
                algorithm: Algorithm::RS256,
                key: key(json!({
                    "kty": "RSA",
                    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
                    "e": "AQAB",
                })),
                message: format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}"),
                signature: "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            },
            // RFC 7515, appendix A.3.
            Vector {
                algorithm: Algorithm::ES256,
                key: key(json!({
                    "kty": "EC",
                    "crv": "P-256",
                    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
                })),
                message: format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}"),
                signature: "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            },
            // RFC 8037, appendices A.2 and A.4.
            Vector {
                algorithm: Algorithm::EdDSA,
                key: key(json!({
                    "kty": "OKP",
                    "crv": "Ed25519",
                    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
                })),
                message: "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
                signature: "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            },
        ]
    }

    fn verifies(vector: &Vector, message: &str, signature: &str, algorithm: Algorithm) -> bool {
        let key = &vector.key;
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm).unwrap()
    }

    #[test]
    fn signatures_of_the_standards_are_verified() {
        install();
        for vector in vectors() {
            let Vector {
                algorithm,
                key,
                message,
                signature,
            } = &vector;
            check(*algorithm, key).unwrap();
            assert!(
                verifies(&vector, message, signature, *algorithm),
                "{algorithm:?}"
            );
            let other = message.replacen('e', "f", 1);
            assert!(
                !verifies(&vector, &other, signature, *algorithm),
                "{algorithm:?}: another message"
            );
            let other = match signature.split_at(10) {
                (before, after) if after.starts_with('A') => format!("{before}B{}", &after[1..]),
                (before, after) => format!("{before}A{}", &after[1..]),
            };
            assert!(
                !verifies(&vector, message, &other, *algorithm),
                "{algorithm:?}: another signature"
            );
            assert!(
                !verifies(&vector, message, "", *algorithm),
                "{algorithm:?}: no signature"
            );
            for foreign in vectors().iter().map(|vector| vector.algorithm) {
                let same = foreign == *algorithm;
                assert_eq!(
                    verifies(&vector, message, signature, foreign),
                    same,
                    "{algorithm:?} as {foreign:?}"
                );
                assert_eq!(
                    check(foreign, key).is_ok(),
                    same,
                    "{algorithm:?} as {foreign:?}"
                );
            }
        }
    }

    /// RFC 7515 A.1 and RFC 8037 A.4: these two algorithms give the same signature each time.
    #[test]
    fn signatures_of_the_standards_are_made() {
        install();
        let [hs256, _, _, eddsa] = &vectors()[..] else {
            panic!("there are four")
        };
        let secret = EncodingKey::from_secret(hs256.key.try_get_as_bytes().unwrap()).unwrap();
        let made = jsonwebtoken::crypto::sign(hs256.message.as_bytes(), &secret, hs256.algorithm);
        assert_eq!(made.unwrap(), hs256.signature);
        // RFC 8037, appendix A.1, in PKCS#8 (RFC 8410, section 7).
        let d = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        der.extend(
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, d).unwrap(),
        );
        let made = jsonwebtoken::crypto::sign(
            eddsa.message.as_bytes(),
            &EncodingKey::from_ed_der(&der),
            eddsa.algorithm,
        );
        assert_eq!(made.unwrap(), eddsa.signature);
    }

    #[test]
    fn keys_that_are_too_weak_or_of_another_curve_are_refused() {
        let short = DecodingKey::from_secret(&[7; 31]).unwrap();
        assert!(
            check(Algorithm::HS256, &short)
                .unwrap_err()
                .contains("32 bytes")
        );
        check(
            Algorithm::HS256,
            &DecodingKey::from_secret(&[7; 32]).unwrap(),
        )
        .unwrap();
        let rsa = |pem: &[u8]| check(Algorithm::RS256, &DecodingKey::from_rsa_pem(pem).unwrap());
        assert!(
            rsa(include_bytes!("testdata/rsa-1024-public.pem"))
                .unwrap_err()
                .contains("2048")
        );
        rsa(include_bytes!("testdata/rsa-public.pem")).unwrap();
        let ec = |pem: &[u8]| check(Algorithm::ES256, &DecodingKey::from_ec_pem(pem).unwrap());
        assert!(
            ec(include_bytes!("testdata/p384-public.pem"))
                .unwrap_err()
                .contains("P-256")
        );
        ec(include_bytes!("testdata/p256-public.pem")).unwrap();
        let any = DecodingKey::from_secret(&[7; 64]).unwrap();
        assert!(check(Algorithm::HS512, &any).is_err(), "HS512 is not taken");
        for nonsense in [
            &b""[..],
            b"\x30",
            b"\x30\x82\xff",
            b"\x30\x03\x02\x84\x01",
            b"\x30\x80\x02",
        ] {
            assert!(check(Algorithm::RS256, &DecodingKey::from_rsa_der(nonsense)).is_err());
        }
    }
}
