//! The generated code of messages and services is what the `.proto` files of `config/proto` say. With
//! `EVENKEEL_REGENERATE=1` this test writes it.

use std::fs;
use std::path::{Path, PathBuf};

use e2e::kit::Scratch;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("control lies in the workspace")
}

/// Every `.proto` file, sorted.
fn protos(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(protos(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn generated_code_is_what_the_protos_say() {
    let folder = root().join("config/proto");
    let descriptors = protox::compile(protos(&folder), [&folder]).expect("the files are right");
    // Messages are everybody's. Control serves without code of tonic's: see its `grpc`.
    let written = [("config/src/wire", false, None), ("proxy/src/ads.rs", true, Some("::config::wire"))];
    for (target, has_client, messages) in written {
        let scratch = Scratch::create("wire").expect("a folder");
        let mut builder = tonic_prost_build::configure()
            .build_client(has_client)
            .build_server(false)
            .build_transport(false)
            .bytes(".")
            .btree_map(".")
            .out_dir(scratch.path());
        builder = match messages {
            // All of them, so that nothing but services is left to write.
            Some(path) => ["envoy", "evenkeel", "google"].iter().fold(builder, |builder, package| {
                builder.extern_path(format!(".{package}"), format!("{path}::{package}"))
            }),
            None => builder.compile_well_known_types(true),
        };
        builder.compile_fds(descriptors.clone()).expect("code can be written");
        check(scratch.path(), &root().join(target));
    }
}

/// A package is a file in folders of its own, as modules are; a service is one file.
fn check(generated: &Path, kept: &Path) {
    let regenerates = std::env::var_os("EVENKEEL_REGENERATE").is_some();
    for entry in fs::read_dir(generated).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        let package = name.strip_suffix(".rs").expect("code");
        let text = fs::read_to_string(entry.path()).expect("text");
        // A package without anything of this end.
        if text.lines().all(|line| line.starts_with("//") || line.is_empty()) {
            continue;
        }
        let text = format!("//! Generated from config/proto by control/tests/it/wire.rs; do not edit. Cold.\n\n{text}");
        let file = match kept.extension() {
            Some(_) if package == "evenkeel.v1" => kept.with_file_name("rpc.rs"),
            Some(_) => kept.to_path_buf(),
            None => kept.join(package.replace('.', "/")).with_extension("rs"),
        };
        if regenerates {
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(&file, &text).expect("a file");
        }
        let known = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            known == text,
            "{} is not what config/proto says: run this test with EVENKEEL_REGENERATE=1",
            file.display()
        );
    }
}
