// SPDX-License-Identifier: Apache-2.0

package file

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/sourcetest"
)

// backend is a folder with one object per file.
type backend struct {
	opts   Options
	source *Source
	writer *Writer
}

func newBackend(t testing.TB) *backend {
	t.Helper()
	b := &backend{opts: Options{Dir: t.TempDir(), StatusDir: filepath.Join(t.TempDir(), "status"), Log: slog.New(slog.DiscardHandler)}}
	var err error
	if b.source, err = New(b.opts); err != nil {
		t.Fatal(err)
	}
	if b.writer, err = NewWriter(b.opts); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *backend) Source() source.Source { return b.source }
func (b *backend) Writer() source.Writer { return b.writer }

func (b *backend) path(kind source.Kind, key source.Key) string {
	return filepath.Join(b.opts.Dir, strings.ToLower(string(kind))+"-"+strings.ReplaceAll(key.String(), "/", "-")+".yaml")
}

func (b *backend) Put(t testing.TB, obj source.Object) {
	t.Helper()
	kind, err := source.KindOf(obj)
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, filepath.Base(b.path(kind, source.KeyOf(obj))), manifest(t, obj))
}

// manifest returns the object's YAML.
func manifest(t testing.TB, obj source.Object) string {
	t.Helper()
	kind, err := source.KindOf(obj)
	if err != nil {
		t.Fatal(err)
	}
	typ, err := source.TypeOf(kind)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	fields["apiVersion"], fields["kind"] = typ.Version.String(), string(kind)
	text, err := yaml.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// write writes a file in place, as an editor may.
func (b *backend) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.opts.Dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (b *backend) Remove(t testing.TB, kind source.Kind, key source.Key) {
	t.Helper()
	if err := os.Remove(b.path(kind, key)); err != nil {
		t.Fatal(err)
	}
}

func (b *backend) Break(t testing.TB, name string) {
	t.Helper()
	path := b.path(source.KindIPPool, source.Key{Name: name})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), "use: LoadBalancer", "use: Nobody", 1)
	if text == string(data) {
		t.Fatalf("nothing to break in\n%s", text)
	}
	b.write(t, filepath.Base(path), text)
}

func TestContract(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Backend { return newBackend(t) })
}
