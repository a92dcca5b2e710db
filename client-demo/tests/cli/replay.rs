//! Replays of several authors who type concurrently.

use crate::harness::Home;

/// Two type concurrently; one deletion is empty, and one edit has seen both authors' edits.
const TOGETHER: &str = r#"{"kind":"concurrent","numAgents":2,"endContent":"漢:bc!","txns":[
    {"parents":[],"agent":0,"numChildren":3,"patches":[[0,0,"漢字:"]]},
    {"parents":[0],"agent":1,"patches":[[1,1,""]]},
    {"parents":[0],"agent":0,"patches":[[0,0,""]]},
    {"parents":[2],"agent":0,"patches":[[3,0,"b"],[4,0,"c"]]},
    {"parents":[1,3],"agent":1,"patches":[[4,0,"!"]]}]}"#;

#[test]
fn concurrent_authors_converge_on_the_recorded_text() {
    let home = Home::new();
    home.write("trace.json", TOGETHER);
    let out = home.run(&["replay", "trace.json"]).ok();
    assert!(out.contains("5 transactions by 2 authors, one change each; 2 follow"), "{out}");
    assert!(out.contains("✓ both have the same heads"), "{out}");
    assert!(out.contains("✓ both have the same 5 changes"), "one changed nothing: {out}");
    assert!(out.contains("✓ both replicas equal the trace's end: 5 characters"), "{out}");
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
}

#[test]
fn each_of_more_than_two_authors_has_a_replica() {
    let home = Home::new();
    let trace = TOGETHER.replace(r#""numAgents":2"#, r#""numAgents":3"#).replace(
        "]}]}",
        r#"]},
    {"parents":[4],"agent":2,"patches":[[5,0,"?"]]},{"parents":[5],"agent":0,"patches":[[5,1,""]]}]}"#,
    );
    home.write("trace.json", trace);
    let out = home.run(&["replay", "trace.json"]).ok();
    assert!(out.contains("✓ all replicas equal the trace's end: 5 characters"), "{out}");
}

/// An edit at the current text instead of the text that its author saw would go elsewhere.
#[test]
fn an_end_that_the_edits_do_not_produce_is_reported() {
    let home = Home::new();
    home.write("trace.json", TOGETHER.replace("漢:bc!", "漢:cb!"));
    home.run(&["replay", "trace.json"]).failed(6, &["differs from the trace's end", "character 2"]);
}

#[test]
fn invalid_concurrent_traces_are_reported() {
    let home = Home::new();
    home.write("a", TOGETHER.replace(r#""parents":[1,3]"#, r#""parents":[3]"#));
    home.run(&["replay", "a"]).failed(7, &["transaction 4 of a does not follow"]);
    home.write("b", TOGETHER.replace(r#""numAgents":2"#, r#""numAgents":9"#));
    home.run(&["replay", "b"]).failed(7, &["9 authors", "1 to 8"]);
    home.write("c", TOGETHER.replace("[4,0,\"!\"]", "[40,0,\"!\"]"));
    home.run(&["replay", "c"]).failed(7, &["the trace cannot be played"]);
}

/// The recorded session of two authors: 26,078 changes through a relay.
#[test]
fn two_recorded_authors_converge() {
    let folder = std::env::var_os("LANDFALL_TRACES").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        std::path::PathBuf::from,
    );
    let trace = folder.join("friendsforever.json.gz");
    if !trace.exists() {
        println!("SKIPPED: no trace at {}; set LANDFALL_TRACES to its folder", trace.display());
        return;
    }
    let home = Home::new();
    let out = home.run(&["replay", trace.to_str().unwrap()]).ok();
    println!("{out}");
    assert!(out.contains("26,078 transactions by 2 authors"), "{out}");
    assert!(out.contains("✓ both have the same 26,079 changes"), "{out}");
    assert!(out.contains("✓ both replicas equal the trace's end: 21,362 characters"), "{out}");
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
}

/// The second author begins after the first has typed for much longer than the limit without
/// progress.
#[test]
fn a_late_author_does_not_time_out_while_others_type() {
    const TYPED: usize = 20_000;
    let first = (0..TYPED).map(|number| {
        let parents = number.checked_sub(1).map(|before| before.to_string()).unwrap_or_default();
        format!(r#"{{"parents":[{parents}],"agent":0,"numChildren":1,"patches":[[0,0,"a"]]}}"#)
    });
    let last = TYPED - 1;
    let late = format!(r#"{{"parents":[{last}],"agent":1,"patches":[[0,{TYPED},"late"]]}}"#);
    let all: Vec<String> = first.chain([late]).collect();
    let trace = format!(
        r#"{{"kind":"concurrent","numAgents":2,"endContent":"late","txns":[{}]}}"#,
        all.join(",")
    );
    let home = Home::new();
    home.write("trace.json", trace);
    let out = home.run(&["replay", "trace.json", "--stall", "1s"]).ok();
    assert!(out.contains("✓ both replicas equal the trace's end: 4 characters"), "{out}");
}
