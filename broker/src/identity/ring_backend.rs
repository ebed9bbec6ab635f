//! The backend that `jsonwebtoken` signs and verifies with: `ring`, which TLS brings anyway. Owns which algorithms there are and which
//! keys fit them; the arithmetic is ring's.

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
    // An error says that it is installed already.
    drop(BACKEND.install_default());
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
        let more = usize::from(first.checked_sub(0x80).unwrap_or(0));
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
