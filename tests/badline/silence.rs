//! Stub.
pub(crate) async fn stopped_broker(_: &crate::World) -> Vec<crate::figure::Figure> { Vec::new() }
pub(crate) async fn lost_nat_state(_: &crate::World) -> Vec<crate::figure::Figure> { Vec::new() }
pub(crate) async fn holes(_: &crate::World) -> Vec<crate::figure::Figure> { Vec::new() }
