//! Stub.
pub(crate) async fn not_reading(_: &crate::World) -> Vec<crate::figure::Figure> { Vec::new() }
pub(crate) async fn vanished(_: &crate::World) -> Vec<crate::figure::Figure> { Vec::new() }
