//! Prints what becomes of the rules in the given files.
fn main() {
    let paths: Vec<_> = std::env::args_os().skip(1).map(Into::into).collect();
    match config::load(&paths).result {
        Ok(checked) => {
            checked.warnings.iter().for_each(|warning| println!("{warning}"));
            println!("{:#?}", checked.snapshot);
        }
        Err(problems) => problems.iter().for_each(|problem| println!("{problem}")),
    }
}
