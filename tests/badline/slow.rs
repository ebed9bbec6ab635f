//! Stub.
pub(crate) async fn upload(_: &crate::World) -> Vec<crate::figure::Figure> { Vec::new() }
pub(crate) async fn kept_connection(_: &crate::World) -> Vec<crate::figure::Figure> { Vec::new() }
pub(crate) async fn lagging(_: &crate::World) -> Vec<crate::figure::Figure> { Vec::new() }
pub(crate) async fn small_packets_only(_: &crate::World) -> Vec<crate::figure::Figure> { Vec::new() }
