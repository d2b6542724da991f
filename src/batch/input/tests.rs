use super::*;

/// Line and identifier, or fault, of everything in `octets`; the same for every way to cut it.
fn read(form: Form, octets: &[u8]) -> (Vec<(u64, String)>, Result<(), &'static str>) {
    let once = |step: usize| {
        let (mut input, mut asked) = (Input::new(form), Asked::default());
        for piece in octets.chunks(step) {
            input.push(piece, &mut asked);
        }
        let done = input.finish(&mut asked);
        let shown = |item: &Item| match item.fault {
            Some(fault) => (item.line, format!("{fault:?}")),
            None => (item.line, asked.handle(item).to_owned()),
        };
        (asked.items().iter().map(shown).collect(), done)
    };
    let whole = once(usize::MAX);
    for step in [1, 2, 3, 7, 64] {
        assert_eq!(once(step), whole, "cut into {step}: {octets:?}");
    }
    whole
}

fn good(form: Form, octets: &[u8], expected: &[(u64, &str)]) {
    let expected: Vec<(u64, String)> = expected
        .iter()
        .map(|(n, text)| (*n, (*text).to_owned()))
        .collect();
    assert_eq!(read(form, octets), (expected, Ok(())));
}

/// Goal: lines with any end, empty ones between; one that is damaged fails alone.
#[test]
fn lines() {
    good(
        Form::Lines,
        b" 88.118/a \r\n\n88.118/b c\n\xff\n88.118/\xe5\xb7\xa5",
        &[
            (1, "88.118/a"),
            (3, "88.118/b c"),
            (4, "Undecodable"),
            (5, "88.118/工"),
        ],
    );
    good(Form::Lines, b"", &[]);
    let long = [
        &b"a\n"[..],
        &vec![b'x'; LINE_MAX + 1],
        b"\nb\n",
        &vec![b'y'; HANDLE_MAX + 1],
    ]
    .concat();
    let (mut input, mut asked) = (Input::new(Form::Lines), Asked::default());
    for piece in long.chunks(1_000) {
        input.push(piece, &mut asked);
    }
    input.finish(&mut asked).unwrap();
    let faults: Vec<_> = asked
        .items()
        .iter()
        .map(|item| (item.line, item.fault))
        .collect();
    let expected = [
        (1, None),
        (2, Some(Fault::TooLong)),
        (3, None),
        (4, Some(Fault::LongHandle)),
    ];
    assert_eq!(faults, expected);
}

/// Goal: strings and objects, whatever else they have; other JSON and none fail alone.
#[test]
fn ndjson() {
    good(
        Form::Ndjson,
        br#"{"handle":"88.118/a"}
"88.118/\u5de5\n"

{"line":1,"values":[{"handle":"x"}],"handle":"88.118/b"}
{"handle":1}
[]
{"handle":"a"
nonsense
{}
"" "#,
        &[
            (1, "88.118/a"),
            (2, "88.118/工\n"),
            (4, "88.118/b"),
            (5, "NotJson"),
            (6, "NotJson"),
            (7, "NotJson"),
            (8, "NotJson"),
            (9, "NotJson"),
            (10, "NoHandle"),
        ],
    );
}

/// Goal: elements are counted; brackets, commas and quotes in strings are text; a broken frame ends the batch.
#[test]
fn arrays() {
    good(
        Form::Json,
        br#" [ "88.118/a,]\"[" , {"handle":"88.118/b","more":[1,{"x":"]"}]},3, null,"c"
] "#,
        &[
            (1, "88.118/a,]\"["),
            (2, "88.118/b"),
            (3, "NotJson"),
            (4, "NotJson"),
            (5, "c"),
        ],
    );
    good(Form::Json, b"[]", &[]);
    for (broken, before) in [
        (&b"{\"handle\":\"a\"}"[..], 0),
        (b"", 0),
        (b"[\"a\"", 0),
        (b"[\"a\",", 1),
        (b"[,\"a\"]", 0),
        (b"[\"a\",]", 1),
        (b"[\"a\"] x", 1),
        (b"[\"a\"\xff", 0),
    ] {
        let (found, done) = read(Form::Json, broken);
        assert!(done.is_err(), "{broken:?}");
        assert_eq!(found.len(), before, "{broken:?}");
    }
}

/// Goal: with and without a header, quoted cells over lines, rows of different lengths; a line is where a row begins.
#[test]
fn csv() {
    good(
        Form::Csv,
        b"\r\nname,Handle,x\r\npump,88.118/a,1\r\n\r\n\"a\nb\",\"88.118/\"\"b\"\"\"\nshort\n,,\n\"x\",88.118/\xff\n1,88.118/c",
        &[
            (3, "88.118/a"),
            (5, "88.118/\"b\""),
            (7, "NoHandle"),
            (8, "NoHandle"),
            (9, "Undecodable"),
            (10, "88.118/c"),
        ],
    );
    good(
        Form::Csv,
        b"88.118/a,x\n88.118/b\n",
        &[(1, "88.118/a"), (2, "88.118/b")],
    );
    good(Form::Csv, b"handle\n88.118/a", &[(2, "88.118/a")]);
    good(Form::Csv, b"handle\n\"88.118/a\"", &[(2, "88.118/a")]);
    good(Form::Csv, b"handle\n88.118/5\"", &[(2, "88.118/5\"")]);
    // Who knows what a cell that does not end was to be: what came before it is answered, and the input is no whole one.
    let (found, whole) = read(Form::Csv, b"handle\n88.118/a\n\"88.118/b\n88.118/c\n");
    assert_eq!(found.first(), Some(&(2, "88.118/a".to_owned())));
    assert_eq!(whole, Err("a quoted cell does not end"));
    good(Form::Csv, b"", &[]);
}

/// Goal: a million columns and a cell without end cost no memory, and their rows fail alone.
#[test]
fn hostile_csv() {
    let mut text = b"88.118/a\n88.118/b".to_vec();
    text.extend(std::iter::repeat_n(b',', 1_000_000));
    text.extend_from_slice(b"\n\"");
    text.extend(std::iter::repeat_n(b'x', 1_000_000));
    text.extend_from_slice(b"\"\n88.118/c\n");
    let (mut input, mut asked) = (Input::new(Form::Csv), Asked::default());
    for piece in text.chunks(10_000) {
        input.push(piece, &mut asked);
    }
    input.finish(&mut asked).unwrap();
    let found: Vec<_> = asked
        .items()
        .iter()
        .map(|item| (item.line, item.fault))
        .collect();
    let long = Some(Fault::TooLong);
    assert_eq!(found, [(1, None), (2, long), (3, long), (4, None)]);
    let State::Csv(csv) = &input.state else {
        panic!()
    };
    assert!(csv.cell.octets.capacity() + csv.wanted.octets.capacity() <= 4 * LINE_MAX);
}
