// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const (
	gossipKey = "V2hhdCBhIGdvc3NpcCBrZXkgdGhpcyBpcyE=" // as a file has it
	saToken   = "service-account-token-0123456789"
	jwtToken  = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"
	pemKey    = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7secretsecretsecret\n-----END RSA PRIVATE KEY-----"
)

// planted are files with secrets, and what else is in them.
func planted() map[string]string {
	return map[string]string{
		"/etc/patchbay/gossip/key":                        gossipKey + "\n",
		"/run/secrets/kubernetes.io/serviceaccount/token": saToken,
		"/etc/patchbay/config.yaml":                       "nodeName: a\nsource: file:/etc/patchbay/objects\ngossip: {keyFile: /etc/patchbay/gossip/key}\n",
		"/etc/patchbay/objects/web.yaml": "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations: {note: kept-as-it-is}\n---\n" +
			"apiVersion: v1\nkind: Secret\nmetadata: {name: tls}\nstringData:\n  anything: plain-secret-value\ndata:\n  other: cGxhaW4tc2VjcmV0LXZhbHVl\n---\n" +
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  password: hunter2hunter2\n  dbPassword: |\n    multi-line-secret\n    second-line-secret\n  colour: blue\n",
		"/etc/patchbay/objects/flow.yaml": "{kind: Secret, data: {x: flow-secret-value}}\n",
		"/var/lib/patchbay/status/x.yaml": "kind: IPAllocation\nmetadata: {name: kept-allocation}\n",
		"/var/log/pods/patchbay-system_patchbayd-x/agent/0.log": strings.Join([]string{
			"time=1 msg=started node=a", "time=2 msg=auth token=abcdef0123456789", "Authorization: Bearer sk-verysecretbearer",
			"sending " + jwtToken + " to the server", "gossip with " + hex.EncodeToString([]byte("What a gossip key this is!")),
			"key " + base64.RawURLEncoding.EncodeToString([]byte(gossipKey)), pemKey, "proxy http://user:urlpassword1@proxy:3128/ is used",
			`{"api_key": "json-secret-value"}`, "mounted " + saToken, "time=9 msg=\"kept line\"", "secretName: kept-name", "keyFile: /etc/patchbay/kept-path",
		}, "\n"),
		"/etc/cni/net.d/kubeconfig":        "users: [{user: {token: kubeconfig-token-1}}]",
		"/etc/cni/net.d/10-other.conflist": `{"name": "kept-network"}`,
		"/etc/cni/net.d/calico-kubeconfig": "token: kubeconfig-token-2",
	}
}

// secret are strings that may be nowhere in a bundle.
func secret() []string {
	return []string{
		gossipKey, "What a gossip key this is!", hex.EncodeToString([]byte("What a gossip key this is!")), base64.RawURLEncoding.EncodeToString([]byte(gossipKey)),
		saToken, jwtToken, "MIIEpAIBAAKCAQEA7", "plain-secret-value", "cGxhaW4tc2VjcmV0LXZhbHVl", "hunter2", "multi-line-secret", "second-line-secret",
		"flow-secret-value", "abcdef0123456789", "verysecretbearer", "urlpassword1", "json-secret-value", "kubeconfig-token",
	}
}

func TestNoSecrets(t *testing.T) {
	netlab.Require(t)
	root := t.TempDir()
	for path, text := range planted() {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	o := Options{Root: root, Agent: agentapi.Client{Path: filepath.Join(root, "none")}, Now: time.Unix(1, 0)}
	if err := Write(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, out.Bytes())
	whole := ""
	for name, text := range files {
		for _, s := range secret() {
			if strings.Contains(text, s) || strings.Contains(name, s) {
				t.Errorf("%s has %q", name, s)
			}
		}
		whole += text
	}
	for _, kept := range []string{"kept-as-it-is", "colour: blue", "kept-allocation", "kept line", "kept-name", "/etc/patchbay/kept-path", "kept-network", "net.ipv4.ip_forward"} {
		if !strings.Contains(whole, kept) {
			t.Errorf("%q is missing", kept)
		}
	}
	for _, name := range []string{"doctor.json", "errors.txt", "config/config.yaml", "network/routes.txt", "network/links.json", "sysctls.txt", "logs/pods/patchbay-system_patchbayd-x/agent/0.log"} {
		if _, ok := files["patchbay-bundle/"+name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if !strings.Contains(files["patchbay-bundle/errors.txt"], "agent/info.json: ") {
		t.Errorf("errors: %s", files["patchbay-bundle/errors.txt"])
	}
}

// However much there is, a bundle stays below its bound, and names what it lacks.
func TestSize(t *testing.T) {
	netlab.Require(t)
	root := t.TempDir()
	dir := filepath.Join(root, "/var/log/pods/patchbay-system_patchbayd-x/agent")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)+".log"), bytes.Repeat([]byte("a line of the log\n"), 20_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	const limit = 1 << 20
	if err := Write(t.Context(), Options{Root: root, Agent: agentapi.Client{Path: filepath.Join(root, "none")}, Now: time.Unix(1, 0), Size: limit}, &out); err != nil {
		t.Fatal(err)
	}
	files, size := unpack(t, out.Bytes()), 0
	for name, text := range files {
		if name != "patchbay-bundle/errors.txt" {
			size += len(text)
		}
	}
	if said := files["patchbay-bundle/errors.txt"]; size > limit || !strings.Contains(said, "7.log: left out") {
		t.Errorf("%d bytes, at most %d wanted; errors: %s", size, limit, said)
	}
}

func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}

func FuzzRedact(f *testing.F) {
	r := newRedactor()
	r.know([]byte("a-known-secret"))
	f.Add([]byte("token: x\nkind: Secret\n---\nkind: Pod"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if out := r.text(text); bytes.Contains(out, []byte("a-known-secret")) {
			t.Errorf("%q became %q", text, out)
		}
	})
}
