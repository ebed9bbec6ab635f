//! api_keys
pub(crate) struct KeyFile;
