//! Long-running commands: the tour, replays, watching; also with interruptions.

use crate::harness::{Home, Relay, is_running};

const TRACE: &str = r#"{"startContent":"漢","endContent":"漢字 abd\r\n!","txns":[
    {"timestamp":"x","patches":[[1,0,"字"]]},{"patches":[[2,0," abc"]]},
    {"patches":[[5,1,"d"],[6,0,"\r\n!"]]}]}"#;

/// The process id in the line `process 12, listening on …`.
fn relay_process(line: &str) -> &str {
    line.trim().trim_start_matches("process ").split(',').next().unwrap()
}

#[test]
fn the_tour_passes_and_leaves_nothing() {
    let home = Home::new();
    let out = home.run(&["tour", "--edits", "40"]).ok();
    assert!(out.contains("Nothing was lost or duplicated"), "{out}");
    assert!(!out.contains('✗') && !out.contains('\u{1b}'), "plain lines: {out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "within 80 columns: {out}");
    let line = out.lines().find(|line| line.contains("listening on")).unwrap();
    assert!(!is_running(relay_process(line)), "the relay is still there");
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
}

#[cfg(unix)]
#[test]
fn an_interrupted_tour_leaves_nothing() {
    for signal in ["-INT", "-TERM"] {
        let home = Home::new();
        let mut tour = home.start(&["tour", "--edits", "20000"]);
        let line = tour.until("listening on");
        let process = relay_process(&line);
        assert!(is_running(process));
        tour.until("a shared diary");
        assert_eq!(tour.signal(signal), Some(130));
        assert!(!is_running(process));
        assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
    }
}

#[test]
fn a_trace_is_replayed() {
    let home = Home::new();
    home.write("trace.json", TRACE);
    let out = home.run(&["replay", "trace.json"]).ok();
    assert!(out.contains("3 transactions by one author"), "{out}");
    assert!(out.contains("✓ both replicas equal the trace's end: 9 characters"), "{out}");
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
}

#[test]
fn a_trace_is_replayed_through_a_given_relay() {
    let home = Home::new();
    let relay = Relay::start(&home);
    home.write("trace.json", TRACE);
    for _ in 0..2 {
        let out = home.at(&relay, &["replay", "trace.json", "--full"]).ok();
        assert!(out.contains(&format!("through {}", relay.url)), "{out}");
    }
}

#[test]
fn a_generated_session_converges() {
    let home = Home::new();
    let out = home.run(&["replay", "--edits", "120", "--seed", "7"]).ok();
    assert!(out.contains("120 edits each, seed 7"), "{out}");
    assert!(out.contains("✓ both have the same 241 changes"), "{out}");
}

#[test]
fn invalid_traces_are_reported() {
    let home = Home::new();
    home.run(&["replay", "no.json"]).failed(7, &["no.json", "No such file"]);
    home.write("a", "{");
    home.run(&["replay", "a"]).failed(7, &["a is not a trace"]);
    home.write("b", r#"{"kind":"video","endContent":"","txns":[]}"#);
    home.run(&["replay", "b"]).failed(7, &["of kind `video`"]);
    home.write("c", r#"{"endContent":"b","txns":[{"patches":[[0,0,"a"]]}]}"#);
    home.run(&["replay", "c"]).failed(7, &["do not produce its endContent"]);
    home.write("d", [0x1f, 0x8b, 0, 0]);
    home.run(&["replay", "d"]).failed(7, &["cannot read the trace d"]);
}

#[cfg(unix)]
#[test]
fn watch_prints_events_until_it_is_interrupted() {
    let home = Home::new();
    let mut relay = Relay::start(&home);
    let mut watch = home.start(&["--store", "ann", "--relay", &relay.url, "watch"]);
    watch.until("live");
    home.at(&relay, &["--store", "ben", "notes", "new", "Hello", "--text", "x"]).ok();
    watch.until("“Hello” received");
    home.at(&relay, &["--store", "ben", "notes", "append", "hello", "more"]).ok();
    let line = watch.until("“Hello” received");
    assert!(line.contains("+5"), "a line end and four letters: {line}");
    relay.kill();
    watch.until("not connected");
    relay.restart(&home);
    watch.until("live");
    assert_eq!(watch.signal("-INT"), Some(0));
}
