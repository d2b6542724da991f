//! Goal: registrations come out the same however often reading stops and goes on, and hostile text costs one row.

use std::io::{BufReader, Cursor, Seek as _, SeekFrom};

use super::*;

const NOW: u32 = 1_700_000_000;

fn open(form: Form, text: &[u8], buffer: usize) -> Rows<BufReader<Cursor<Vec<u8>>>> {
    Rows::new(
        form,
        BufReader::with_capacity(buffer, Cursor::new(text.to_vec())),
    )
    .unwrap()
}

fn all(rows: &mut Rows<BufReader<Cursor<Vec<u8>>>>) -> Vec<Row> {
    std::iter::from_fn(|| rows.next(NOW).unwrap()).collect()
}

/// Lines, handles, and the indexes or what is wrong.
fn shown(rows: &[Row]) -> Vec<(u64, String, String)> {
    let one = |row: &Row| {
        let values = match &row.values {
            Ok(values) => format!(
                "{:?}",
                values.iter().map(|value| value.index).collect::<Vec<_>>()
            ),
            Err(wrong) => wrong.clone(),
        };
        (
            row.line,
            String::from_utf8_lossy(&row.handle).into_owned(),
            values,
        )
    };
    rows.iter().map(one).collect()
}

const NDJSON: &str = "\n{\"handle\":\"88.118/a\",\"values\":[{\"index\":2,\"type\":\"T\",\"data\":\"x\"},\
    {\"index\":1,\"type\":\"URL\",\"data\":\"y\"}]}\r\n\nnonsense\n{\"handle\":\"88.118/b\",\"values\":[]}";
const CSV: &str = "Handle,index,type,value,encoding\r\n88.118/a,2,T,\"two\nlines\",\r\n88.118/a,1,URL,00ff,hex\r\n\r\n\
    88.118/b,0,T,x,\r\n88.118/b,1,T,x,\r\n,1,T,x,\r\n88.118/c,1,T,x,";

/// Answers of two batches, one behind the other; the second one was cut.
const ANSWERS: &str = concat!(
    r#"{"line":1,"responseCode":1,"handle":"88.118/a","values":[{"index":1,"type":"T","data":"x"}]}"#,
    "\n",
    r#"{"line":2,"responseCode":100,"handle":"88.118/b","code":"handle_not_found"}"#,
    "\n",
    r#"{"complete":true,"lines":2,"codes":{"success":1},"epoch":1,"sequence":9}"#,
    "\n",
    r#"{"line":3,"responseCode":102,"code":"invalid_handle","message":"no text"}"#,
    "\n",
    r#"{"line":4,"responseCode":3,"handle":"88.118/c","code":"quota_used_up","renewal":"1970-01-02T00:00:00Z"}"#,
    "\n",
    r#"{"line":5,"responseCode":1,"handle":"88.118/d","values":[{"index":1,"type":"T","data":"x","more":1}]}"#,
    "\n",
    r#"{"complete":false,"lines":2,"codes":{},"code":"busy","message":"the node stops"}"#,
    "\n",
);
const ANSWER_ROWS: &str = concat!(
    "line,responseCode,handle,index,type,ttl,timestamp,permissions,encoding,value\r\n",
    "1,1,88.118/a,1,T,60,2023-11-14T22:13:20Z,1110,string,x\r\n",
    "2,100,88.118/b,,,,,,handle_not_found,\r\n",
    "summary,,,,,,,,json,\"{\"\"complete\"\":true,\"\"lines\"\":2}\"\r\n",
    "3,102,,,,,,,invalid_handle,no text\r\n",
    "4,3,88.118/c,,,,1970-01-02T00:00:00Z,,quota_used_up,\r\n",
    "summary,,,,,,,,json,\"{\"\"complete\"\":false,\"\"message\"\":\"\"the node stops\"\"}\"\r\n",
);

#[test]
fn answers_of_batches() {
    let refused = |answer: &str| format!("the batch has no record here: it was answered {answer}");
    let cut =
        "the batch ended before its end, and more records may be missing here: the node stops";
    let rows = all(&mut open(Form::Ndjson, ANSWERS.as_bytes(), 7));
    let mut rows = shown(&rows);
    let (_, _, wrong) = rows.remove(4);
    assert!(wrong.contains("unknown field `more`"), "{wrong}");
    assert_eq!(
        rows,
        [
            (1, "88.118/a".to_owned(), "[1]".to_owned()),
            (2, "88.118/b".to_owned(), refused("100 (handle_not_found)")),
            (4, String::new(), refused("102 (invalid_handle)")),
            (5, "88.118/c".to_owned(), refused("3 (quota_used_up)")),
            (7, String::new(), cut.to_owned()),
        ]
    );
    let rows = all(&mut open(Form::Csv, ANSWER_ROWS.as_bytes(), 7));
    assert_eq!(
        shown(&rows),
        [
            (2, "88.118/a".to_owned(), "[1]".to_owned()),
            (3, "88.118/b".to_owned(), refused("100 (handle_not_found)")),
            (5, String::new(), refused("102 (invalid_handle)")),
            (6, "88.118/c".to_owned(), refused("3 (quota_used_up)")),
            (7, String::new(), cut.to_owned()),
        ]
    );
    // What is like a summary and is none, and an answer that is no record, are no rows that pass.
    for text in [
        "{\"complete\":1}",
        "{\"line\":1,\"responseCode\":1}",
        "{\"line\":1}",
    ] {
        let rows = all(&mut open(Form::Ndjson, text.as_bytes(), 7));
        assert!(
            rows.len() == 1 && rows[0].values.is_err(),
            "{text}: {rows:?}"
        );
    }
}

#[test]
fn forms() {
    let rows = all(&mut open(Form::Ndjson, NDJSON.as_bytes(), 7));
    assert_eq!(
        shown(&rows)[..1],
        [(2, "88.118/a".to_owned(), "[1, 2]".to_owned())]
    );
    assert_eq!((rows[1].line, rows[1].values.is_err()), (4, true));
    assert_eq!((rows[2].line, rows[2].values.clone()), (5, Ok(Vec::new())));
    let rows = all(&mut open(Form::Csv, CSV.as_bytes(), 7));
    assert_eq!(
        shown(&rows),
        [
            (2, "88.118/a".to_owned(), "[1, 2]".to_owned()),
            (
                6,
                "88.118/b".to_owned(),
                "index: is not a number above 0".to_owned()
            ),
            (8, String::new(), "there is no handle in the row".to_owned()),
            (9, "88.118/c".to_owned(), "[1]".to_owned()),
        ]
    );
    let values = rows[0].values.as_ref().unwrap();
    assert_eq!(
        (&values[0].data[..], &values[1].data[..]),
        (&b"\x00\xff"[..], &b"two\nlines"[..])
    );
}

/// Goal: a kill between two rows neither loses nor repeats one. Method: going on behind every row.
#[test]
fn going_on() {
    let bare = "88.118/a,1,T,,,,x\r\n88.118/b,1,T,60,1111,,x\n88.118/b,2,T,,,,x";
    for (form, text) in [
        (Form::Ndjson, NDJSON),
        (Form::Csv, CSV),
        (Form::Ndjson, ANSWERS),
        (Form::Csv, ANSWER_ROWS),
        (Form::Csv, bare),
        (Form::Csv, "88.118/a,1,T,,,,x"),
    ] {
        for buffer in [1, 16, 4_096] {
            let whole = all(&mut open(form, text.as_bytes(), buffer));
            for (place, row) in whole.iter().enumerate() {
                let mut rows = open(form, text.as_bytes(), buffer);
                rows.go_on(row.end, |input, octet| {
                    input.seek(SeekFrom::Start(octet)).map(drop)
                })
                .unwrap();
                assert_eq!(all(&mut rows), whole[place + 1..], "{text} {place}");
            }
            let mut rows = open(form, text.as_bytes(), buffer);
            rows.go_on(Place::default(), |_, _| panic!("at the beginning"))
                .unwrap();
            assert_eq!(all(&mut rows), whole);
        }
    }
}

#[test]
fn hostile_rows_fail_alone() {
    let good = "88.118/z,1,T,,,,x\n";
    let many = ",".repeat(1_000_000);
    let long = "x".repeat(ROW_MAX + 1);
    for bad in [
        many.clone(),
        format!("88.118/y,1,T,,,,{long}"),
        "88.118/y,1,T,,,,\u{1}".replace('\u{1}', ""),
    ] {
        let text = format!("{good}{bad}\n{good}");
        let rows = all(&mut open(Form::Csv, text.as_bytes(), 8_192));
        assert_eq!(rows.len(), 3, "{:.40}", bad);
        assert!(rows[0].values.is_ok() && rows[2].values.is_ok());
    }
    let rows = all(&mut open(
        Form::Csv,
        format!("{many}\n{good}").as_bytes(),
        8_192,
    ));
    assert_eq!(
        (rows.len(), rows[0].values.is_err(), rows[1].line),
        (2, true, 2)
    );
    let mut text = NDJSON.as_bytes().to_vec();
    text.extend_from_slice(format!("\n{long}\n\"\u{e9}").as_bytes());
    text.extend_from_slice(b"\xff\n");
    let rows = all(&mut open(Form::Ndjson, &text, 8_192));
    let wrong: Vec<_> = rows[3..]
        .iter()
        .map(|row| row.values.clone().unwrap_err())
        .collect();
    assert_eq!(wrong, [too_long(), undecodable()]);
    let rows = all(&mut open(Form::Csv, b"88.118/a,1,T,,,,\xff\n", 16));
    assert_eq!(rows[0].values, Err(undecodable()));
}

/// Goal: what was cut, or has a quotation mark too many, is not registered as something else.
#[test]
fn broken_rows_are_not_guessed() {
    let lines = "88.118/b,1,T,,,,y\n88.118/c,1,T,,,,z\n";
    for text in [
        format!("88.118/a,1,T,,,,x\n88.118/q,1,T,,,,\"19 inch\n{lines}"),
        "88.118/a,1,T,,,,x\n88.118/q,1,T,,,,\"cut".to_owned(),
    ] {
        for buffer in [1, 7, 8_192] {
            let rows = all(&mut open(Form::Csv, text.as_bytes(), buffer));
            assert_eq!(rows.len(), 2, "{text}");
            assert!(rows[0].values.is_ok());
            let wrong = rows[1].values.clone().expect_err("it does not end");
            assert!(wrong.contains("a quoted cell does not end"), "{wrong}");
        }
    }
    let (cut, more) = ("88.118/a,1,UR", "88.118/b,1,T,,,,x,y");
    let text = format!("{more}\n88.118/c,1,T,,,,x,,\n88.118/d,1,T,,,,5\" pipe\n{cut}");
    let rows = shown(&all(&mut open(Form::Csv, text.as_bytes(), 8_192)));
    let told: Vec<&str> = rows.iter().map(|(_, _, told)| &**told).collect();
    let wrong = |cells| format!("the row has {cells} cells instead of 7");
    assert_eq!(told, [&*wrong(8), "[1]", "[1]", &*wrong(3)]);
}

#[test]
fn columns() {
    for (head, wrong) in [
        ("handle,index,type", "the column value is missing"),
        ("handle,index,type,value,colour", "\"colour\" is not known"),
        ("handle,handle,index,type,value", "handle is there twice"),
    ] {
        let input = BufReader::new(Cursor::new(head.as_bytes().to_vec()));
        match Rows::new(Form::Csv, input) {
            Err(Unreadable::Columns(text)) => assert!(text.contains(wrong), "{text}"),
            other => panic!("{head}: {other:?}"),
        }
    }
    let answer = "line,responseCode,handle,index,type,ttl,timestamp,permissions,encoding,value\n\
        1,1,88.118/a,1,URL,86400,2023-11-14T22:13:20Z,1110,string,https://example.cn\n";
    let rows = all(&mut open(Form::Csv, answer.as_bytes(), 64));
    assert_eq!(shown(&rows), [(2, "88.118/a".to_owned(), "[1]".to_owned())]);
}
