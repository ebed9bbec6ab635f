//! Puts `sync_file_range.c` into everything that is linked with the broker.

fn main() {
    println!("cargo::rerun-if-changed=src/message_log/sled/sync_file_range.c");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        cc::Build::new()
            .file("src/message_log/sled/sync_file_range.c")
            .link_lib_modifier("+whole-archive")
            .compile("hark_sync_file_range");
    }
}
