// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"strings"
)

// removed stands where a secret was.
const removed = "REMOVED"

// shortest is how long a known secret must be to be looked for: shorter ones
// would be found in anything.
const shortest = 6

// redactor takes secrets out of texts: values of keys that sound like secrets,
// what looks like a key or a token wherever it is, Secret objects, and the
// contents of files that are known to be secret, in any of their spellings.
type redactor struct {
	known []string

	sounds, path, pem, jwt, bearer, login, kind, block, apart *regexp.Regexp
}

// know adds the contents of a secret file.
func (r *redactor) know(secret []byte) {
	for _, s := range [][]byte{secret, bytes.TrimSpace(secret)} {
		if len(s) < shortest {
			continue
		}
		r.known = append(r.known, string(s), hex.EncodeToString(s), strings.ToUpper(hex.EncodeToString(s)))
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			r.known = append(r.known, e.EncodeToString(s))
		}
		// A key may be written as text that says it in another spelling.
		if raw, err := base64.StdEncoding.DecodeString(string(s)); err == nil && len(raw) >= shortest {
			r.known = append(r.known, string(raw), hex.EncodeToString(raw))
		}
		if raw, err := hex.DecodeString(string(s)); err == nil && len(raw) >= shortest {
			r.known = append(r.known, string(raw), base64.StdEncoding.EncodeToString(raw))
		}
	}
}

// newRedactor returns one that knows no file's contents yet.
func newRedactor() redactor {
	const sounding = `["']?[\w.-]*(?:token|passw(?:or)?d|passphrase|secret|private[-_ ]?key|api[-_]?key|authorization|credential|key-data|gossip[-_]?key|psk|community)[\w.-]*["']?`
	return redactor{
		sounds: regexp.MustCompile(`(?i)(` + sounding + `\s*[:=]\s*)(\S[^\r\n]*)`),
		path:   regexp.MustCompile(`(?i)^["']?[\w.-]*(?:file|path|name|ref|dir)["']?\s*[:=]`),
		pem:    regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*(?:PRIVATE|SECRET)[A-Z0-9 ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\z)`),
		jwt:    regexp.MustCompile(`eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*`),
		bearer: regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}`),
		login:  regexp.MustCompile(`(://[^/\s:@]+):[^/\s@]+@`),
		kind:   regexp.MustCompile(`(?m)^kind:\s*["']?Secret["']?\s*$|"kind"\s*:\s*"Secret"|(?m)^\s*[{,]?\s*kind:\s*["']?Secret["']?\s*[,}]?`),
		// A block's lines after "key: |" are its value.
		block: regexp.MustCompile(`(?i)^\s*` + sounding + `:\s*[|>][-+0-9]*\s*$`),
		apart: regexp.MustCompile(`(?m)^---.*$`),
	}
}

// text returns a text without secrets.
func (r *redactor) text(in []byte) []byte {
	out := string(r.dropSecrets(in))
	for _, s := range r.known {
		out = strings.ReplaceAll(out, s, removed)
	}
	out = r.pem.ReplaceAllString(out, removed)
	out = r.dropBlocks(out)
	out = r.jwt.ReplaceAllString(out, removed)
	out = r.bearer.ReplaceAllString(out, "$1 "+removed)
	out = r.login.ReplaceAllString(out, "$1:"+removed+"@")
	out = r.sounds.ReplaceAllStringFunc(out, func(pair string) string {
		if r.path.MatchString(pair) {
			return pair
		}
		return r.sounds.ReplaceAllString(pair, "${1}"+removed)
	})
	return []byte(out)
}

// dropBlocks leaves out the lines that are the value of a key that sounds
// secret: those that are indented more.
func (r *redactor) dropBlocks(in string) string {
	var out strings.Builder
	inside, indent := false, 0
	for line := range strings.Lines(in) {
		depth := len(line) - len(strings.TrimLeft(line, " \t"))
		if inside && (strings.TrimSpace(line) == "" || depth > indent) {
			continue
		}
		inside = r.block.MatchString(strings.TrimRight(line, "\r\n"))
		indent = depth
		out.WriteString(line)
		if inside {
			out.WriteString(strings.Repeat(" ", depth+2) + removed + "\n")
		}
	}
	return out.String()
}

// dropSecrets leaves out those YAML documents that are Secret objects.
func (r *redactor) dropSecrets(in []byte) []byte {
	if !r.kind.Match(in) {
		return in
	}
	documents := r.apart.Split(string(in), -1)
	for i, d := range documents {
		if r.kind.MatchString(d) {
			documents[i] = "\n# a Secret: " + removed + "\n"
		}
	}
	return []byte(strings.Join(documents, "---"))
}
