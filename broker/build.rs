//! Puts what has to be C into everything that is linked with the broker.

const SOURCES: [&str; 2] = ["src/allocator.c", "src/message_log/sled/sync_file_range.c"];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        let mut build = cc::Build::new();
        build.files(SOURCES).link_lib_modifier("+whole-archive");
        // Said by libmimalloc-sys.
        if let Ok(include) = std::env::var("DEP_MIMALLOC_INCLUDE_DIR") {
            build.include(include);
        }
        build.compile("hark_c");
    }
}
