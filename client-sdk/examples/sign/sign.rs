//! The Rust of "Let people in" in the README.

// jsonwebtoken = { version = "12", features = ["rust_crypto"] }
use jsonwebtoken::{EncodingKey, Header, encode, errors::Error, get_current_timestamp};

pub fn hark_token(secret: &str, user: &str) -> Result<String, Error> {
    let iat = get_current_timestamp();
    let claims = serde_json::json!({
        "iss": "https://app.example", "aud": "hark", "sub": user, "iat": iat, "exp": iat + 300
    });
    let key = EncodingKey::from_secret(secret.trim().as_bytes())?;
    encode(&Header::default(), &claims, &key)
}
