//! Begins a corpus of components: `cargo run --example seeds -- corpus/plugin guests/*.wat ../tests/hostile/wat/*.wat`.

use std::path::{Path, PathBuf};

fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let into = arguments.next().expect("a directory, then WAT files");
    std::fs::create_dir_all(&into).unwrap();
    for file in arguments {
        let wasm = wat::parse_file(&file).unwrap_or_else(|error| panic!("{error}"));
        let name = Path::new(file.file_stem().unwrap()).with_extension("wasm");
        std::fs::write(into.join(name), wasm).unwrap();
    }
}
