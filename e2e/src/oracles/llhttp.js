// Node's llhttp behind one line per request; see parser.rs. One byte at a time, since it does not say where a
// message ended.
const { HTTPParser, allMethods, methods } = process.binding('http_parser');
const hex = (text) => Buffer.from(text, 'latin1').toString('hex');

function judge(input) {
  const parser = new HTTPParser();
  parser.initialize(HTTPParser.REQUEST, {}, 64 * 1024, HTTPParser.kLenientNone);
  let method = '', target = '', fields = [], body = [], inHead = true, done = false;
  // Long heads come in parts, and trailers after the body by the same way.
  parser[HTTPParser.kOnHeaders | 0] = (more, part) => {
    if (!inHead) return;
    fields = fields.concat(more);
    target += part;
  };
  parser[HTTPParser.kOnHeadersComplete | 0] = (major, minor, more, number, whole) => {
    fields = fields.concat(more ?? []);
    target = whole ?? target;
    method = (allMethods ?? methods)[number];
    inHead = false;
    return 0;
  };
  parser[HTTPParser.kOnBody | 0] = (piece) => { body.push(Buffer.from(piece)); };
  parser[HTTPParser.kOnMessageComplete | 0] = () => { done = true; };
  for (let at = 0; at < input.length; at++) {
    const outcome = parser.execute(input.subarray(at, at + 1));
    if (done) {
      let list = '';
      for (let i = 0; i < fields.length; i += 2) list += `${hex(fields[i])}:${hex(fields[i + 1])},`;
      return `ok ${hex(method)} ${hex(target)} ${list} ${Buffer.concat(body).toString('hex')} ${at + 1}`;
    }
    if (outcome instanceof Error) return `refused ${outcome.code} ${outcome.reason}`;
  }
  return 'unfinished';
}

require('readline').createInterface({ input: process.stdin })
  .on('line', (line) => process.stdout.write(judge(Buffer.from(line, 'hex')).replaceAll('\n', ' ') + '\n'));
