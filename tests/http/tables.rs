//! Goal: answers as Parquet tables, and tables as registrations. Method: the command on a real node; what it writes is read,
//! and what it reads is written, with the library (other programs read and write such tables in batch.sh).

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;
use serde_json::{Value as Json, json};

use crate::batch::token;
use crate::node::Node;

const RECORDS: &str = r#"{"handle":"88.118.20/t1","values":[{"index":1,"type":"URL","data":"https://example.cn/\u6807","ttl":60},{"index":2,"type":"BIN","data":{"format":"base64","value":"AP8="}},{"index":3,"type":"N","data":"","ttl":"2037-01-31T00:00:00Z"},{"index":9,"type":"S","data":"x","permissions":"1100"}]}
{"handle":"88.118.20/t2","values":[{"index":7,"type":"T","data":"x","references":[{"handle":"a/b","index":4}]}]}
"#;

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Runs a command with server and token.
fn run(node: &Node, token: &str, words: &[&str]) -> (bool, String) {
    let secret = node.path("token");
    fs::write(&secret, token).unwrap();
    let (server, secret) = (format!("http://127.0.0.1:{}", node.http), text(&secret));
    let fixed = ["--server", &*server, "--token-file", &*secret];
    node.run(&[words, &fixed].concat())
}

fn plain() -> Node {
    Node::with(&[("JIEXI_HTTP_PLAIN_LOOPBACK", "true")])
}

/// What a field of a row has, as JSON.
fn of(row: &Row, wanted: &str) -> Json {
    let found = row.get_column_iter().find(|(name, _)| *name == wanted);
    match found.unwrap_or_else(|| panic!("no {wanted}")).1 {
        Field::Null => Json::Null,
        Field::Str(text) => json!(text),
        Field::Int(number) => json!(number),
        Field::UInt(number) => json!(number),
        Field::Long(number) => json!(number),
        Field::ULong(number) => json!(number),
        Field::TimestampMillis(number) => json!(number),
        other => panic!("{wanted}: {other:?}"),
    }
}

fn values(row: &Row) -> Vec<Row> {
    let mut columns = row.get_column_iter();
    let Some((_, Field::ListInternal(list))) = columns.find(|(name, _)| *name == "values") else {
        panic!("no list");
    };
    let value = |field: &Field| match field {
        Field::Group(row) => row.clone(),
        other => panic!("{other:?}"),
    };
    list.elements().iter().map(value).collect()
}

#[test]
fn answers_become_a_table_and_a_table_registrations() {
    let node = plain();
    node.import(RECORDS);
    let (_, asker) = token(&node, &["--right", "batch,resolve"]);
    let (input, out) = (node.path("in.txt"), node.path("out.parquet"));
    let lines = "88.118.20/t1\n\n88.118.20/none\n88.118.20/t2\n10.1/x\n";
    fs::write(&input, lines).unwrap();
    let ask = |form: &str, out: &Path| {
        let words = [
            "batch",
            "resolve",
            &text(&input),
            "--restricted",
            "-o",
            form,
            "--out",
            &text(out),
        ]
        .map(str::to_owned);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (good, said) = run(&node, &asker, &words);
        assert!(good, "{said}");
    };
    ask("parquet", &out);
    let reference = node.path("out.ndjson");
    ask("ndjson", &reference);
    let reference = fs::read_to_string(reference).unwrap();
    let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
    let notes = reader.metadata().file_metadata().key_value_metadata();
    let summary = notes
        .unwrap()
        .iter()
        .find(|note| note.key == "jiexi.summary");
    let summary: Json = serde_json::from_str(summary.unwrap().value.as_ref().unwrap()).unwrap();
    assert_eq!(
        (&summary["complete"], &summary["lines"]),
        (&true.into(), &4.into())
    );
    let rows: Vec<Row> = reader.into_iter().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 4);
    for (row, answer) in rows.iter().zip(reference.lines()) {
        let answer: Json = serde_json::from_str(answer).unwrap();
        for name in ["line", "responseCode", "handle", "code", "message"] {
            assert_eq!(of(row, name), answer[name], "{name}");
        }
        let expected = answer["values"].as_array().cloned().unwrap_or_default();
        let found = values(row);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(of(found, "index"), expected["index"]);
            assert_eq!(of(found, "type"), expected["type"]);
            assert_eq!(of(found, "encoding"), expected["data"]["format"]);
            assert_eq!(of(found, "value"), expected["data"]["value"]);
            let time = humantime::parse_rfc3339(expected["timestamp"].as_str().unwrap());
            let time = time.unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
            assert_eq!(of(found, "timestamp"), json!(time.as_secs() * 1_000));
        }
    }
    let first = values(&rows[0]);
    assert_eq!(
        (of(&first[0], "ttl"), of(&first[0], "expires")),
        (60.into(), Json::Null)
    );
    assert_eq!(
        (of(&first[2], "ttl"), of(&first[2], "expires")),
        (Json::Null, 2_116_972_800_000_i64.into())
    );
    assert_eq!(
        (of(&first[0], "permissions"), of(&first[3], "permissions")),
        ("1110".into(), "1100".into())
    );
    let references: Json =
        serde_json::from_str(of(&values(&rows[2])[0], "references").as_str().unwrap()).unwrap();
    assert_eq!(references, json!([{"handle": "a/b", "index": 4}]));
    // The same table, handed over: what is there is the same, also its secret, and an answer without values is no row.
    let (_, writer) = token(&node, &["--right", "write"]);
    let results = node.path("results");
    let words = ["bulk", "import", &text(&out), "--results", &text(&results)].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (good, said) = run(&node, &writer, &words);
    assert!(
        !good && said.contains("2 rows are not registered"),
        "{said}"
    );
    let became: Vec<Json> = fs::read_to_string(&results)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap()["result"].clone())
        .collect();
    assert_eq!(became, ["same", "invalid", "same", "invalid"]);
}

/// A table with a row for each value.
fn write_flat(path: &Path) {
    let schema = "message t { required binary Handle (STRING); required int64 index; required binary type (STRING);
        optional double ttl; required binary value; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::new());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let octets = |all: &[&[u8]]| -> Vec<ByteArray> {
        all.iter()
            .map(|one| ByteArray::from(one.to_vec()))
            .collect()
    };
    for place in 0..5 {
        let mut column = group.next_column().unwrap().unwrap();
        let written = match place {
            0 => {
                let handles = octets(&[b"88.118.20/f1", b"88.118.20/f1", b"88.118.20/f,\"2"]);
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&handles, None, None)
            }
            1 => column
                .typed::<Int64Type>()
                .write_batch(&[1, 2, 1], None, None),
            2 => {
                let kinds = octets(&[b"URL", b"BIN", b"T"]);
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&kinds, None, None)
            }
            3 => {
                let there = Some(&[1, 0, 1][..]);
                column
                    .typed::<DoubleType>()
                    .write_batch(&[60.0, f64::NAN], there, None)
            }
            _ => {
                let values = octets(&[b"https://example.cn/f", b"\0\xff", b"a\r\nb"]);
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&values, None, None)
            }
        };
        written.unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn a_row_for_each_value_is_registered_too() {
    let node = plain();
    let (_, writer) = token(&node, &["--right", "write"]);
    let table = node.path("flat.parquet");
    write_flat(&table);
    let import = |path: &Path, more: &[&str]| {
        let path = text(path);
        let words = [&["bulk", "import", &*path, "-o", "json"], more].concat();
        run(&node, &writer, &words)
    };
    let (good, said) = import(&table, &[]);
    assert!(good && said.contains("\"created\": 2"), "{said}");
    let found = node.get("/api/handles/88.118.20/f1").json();
    let value = |place: usize, name: &str| found["values"][place][name].clone();
    assert_eq!(
        (value(0, "ttl"), value(0, "data"), value(1, "data")),
        (
            60.into(),
            json!({"format": "string", "value": "https://example.cn/f"}),
            json!({"format": "base64", "value": "AP8="})
        )
    );
    let quoted = node.get("/api/handles/88.118.20/f,%222").json();
    assert_eq!(quoted["values"][0]["data"]["value"], "a\r\nb");
    let (good, said) = import(Path::new("-"), &["--input-form", "parquet"]);
    assert!(!good && said.contains("not standard input"), "{said}");
    let whole = fs::read(&table).unwrap();
    for (name, octets) in [
        ("cut", &whole[..whole.len() / 2]),
        ("none", b"PAR1".as_slice()),
    ] {
        fs::write(node.path("bad.parquet"), octets).unwrap();
        let (good, said) = import(&node.path("bad.parquet"), &[]);
        assert!(!good && said.contains("bad.parquet: "), "{name}: {said}");
    }
    let schema = "message t { required binary handle (STRING); required int64 colour; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = File::create(node.path("other.parquet")).unwrap();
    let writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::new()));
    writer.unwrap().close().unwrap();
    let (good, said) = import(&node.path("other.parquet"), &[]);
    assert!(!good && said.contains("no column index"), "{said}");
}

#[test]
fn groups_are_bounded_and_a_table_is_whole_or_not_there() {
    const COUNT: usize = 70_000;
    let node = plain();
    let (_, token) = token(&node, &[]);
    let (input, out) = (node.path("in.txt"), node.path("out.parquet"));
    fs::write(&input, "88.118.20/STRANGER\n".repeat(COUNT)).unwrap();
    let ask = |input: &Path, server: Option<&str>| {
        let (input, out) = (text(input), text(&out));
        let words = ["batch", "resolve", &*input, "-o", "parquet", "--out", &*out];
        match server {
            None => run(&node, &token, &words),
            Some(server) => node.run(&[&words[..], &["--server", server]].concat()),
        }
    };
    let handle = format!("handle://127.0.0.1:{}", node.handle);
    for server in [None, Some(&*handle)] {
        let (good, said) = ask(&input, server);
        assert!(good, "{said}");
        let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
        let groups: Vec<i64> = (0..reader.num_row_groups())
            .map(|place| reader.metadata().row_group(place).num_rows())
            .collect();
        assert_eq!(groups, [65_536, (COUNT - 65_536) as i64]);
        let rows = reader.into_iter().map(Result::unwrap);
        let lines = rows.map(|row| of(&row, "line").as_u64().unwrap());
        assert!(lines.eq(1..=COUNT as u64));
        fs::remove_file(&out).unwrap();
    }
    let broken = node.path("in.json");
    fs::write(&broken, "[\"88.118.20/STRANGER\"").unwrap();
    let (good, said) = ask(&broken, None);
    assert!(!good && said.contains("begins anew"), "{said}");
    let (good, said) = ask(&node.path("nothing.txt"), None);
    assert!(!good, "{said}");
    let left = fs::read_dir(out.parent().unwrap()).unwrap();
    let left: Vec<String> = left
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("parquet") || name.contains("resume"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let (good, said) = run(&node, &token, &["batch", "resolve", "-", "-o", "parquet"]);
    assert!(!good && said.contains("--out"), "{said}");
    // What was begun as text is not replaced without a word.
    fs::write(&input, "88.118.20/STRANGER\n").unwrap();
    fs::write(&out, "{\"line\":1}\n").unwrap();
    let state = json!({"input": "x", "asked": "y", "line": 1, "octets": 11});
    fs::write(node.path("out.parquet.resume"), state.to_string()).unwrap();
    let (good, said) = ask(&input, None);
    assert!(!good && said.contains("--restart"), "{said}");
}
