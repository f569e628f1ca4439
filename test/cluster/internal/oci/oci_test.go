// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files reads a tar stream: content by name, and the order of the names.
func files(t *testing.T, r io.Reader) (map[string][]byte, []string) {
	t.Helper()
	content := map[string][]byte{}
	var order []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return content, order
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := content[h.Name]; ok {
			t.Errorf("%s is there twice", h.Name)
		}
		content[h.Name] = data
		order = append(order, h.Name)
	}
}

func testLayer(t *testing.T) *Layer {
	t.Helper()
	source := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(source, []byte("content"), 0o755); err != nil {
		t.Fatal(err)
	}
	tree := NewTree()
	tree.Link("a/alias", "usr/bin/tool") // sorts before what it names
	if err := tree.File("usr/bin/tool", source); err != nil {
		t.Fatal(err)
	}
	tree.Dir("tmp", 0o1777)
	layer, err := tree.FastLayer()
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

func TestLayerOrder(t *testing.T) {
	z, err := gzip.NewReader(bytes.NewReader(testLayer(t).blob))
	if err != nil {
		t.Fatal(err)
	}
	_, order := files(t, z)
	want := []string{"a/", "tmp/", "usr/", "usr/bin/", "usr/bin/tool", "a/alias"}
	if !slices.Equal(order, want) {
		t.Errorf("want %v, got %v", want, order)
	}
}

func TestWriteSharesLayers(t *testing.T) {
	layer := testLayer(t)
	images := []Image{
		{Name: "example.test/one:1", Layers: []*Layer{layer}, Config: Config{Entrypoint: []string{"/usr/bin/tool"}}},
		{Name: "example.test/two:1", Layers: []*Layer{layer}},
	}
	var first, second bytes.Buffer
	for _, w := range []io.Writer{&first, &second} {
		if err := Write(w, "amd64", images...); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same images give different archives")
	}
	content, _ := files(t, &first)
	// Two manifests, two configurations, one layer.
	var blobs int
	for name, data := range content {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			blobs++
			if digest(data) != "sha256:"+sum {
				t.Errorf("%s has digest %s", name, digest(data))
			}
		}
	}
	if blobs != 5 {
		t.Errorf("want 5 blobs, got %d", blobs)
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(content["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	for i, m := range index.Manifests {
		if got := m.Annotations["io.containerd.image.name"]; got != images[i].Name {
			t.Errorf("manifest %d: want name %s, got %s", i, images[i].Name, got)
		}
		if _, ok := content["blobs/sha256/"+strings.TrimPrefix(m.Digest, "sha256:")]; !ok {
			t.Errorf("manifest %d: no blob %s", i, m.Digest)
		}
	}
}

func TestProgramBringsItsLibraries(t *testing.T) {
	tree := NewTree()
	if err := tree.Program("bin/cat", "cat"); err != nil {
		t.Fatal(err)
	}
	var libc bool
	for name := range tree.entries {
		libc = libc || strings.HasSuffix(name, "/libc.so.6")
	}
	if !libc {
		t.Error("libc.so.6 is missing")
	}
	if err := tree.Program("bin/none", "no-such-program"); err == nil {
		t.Error("want an error for a program that isn't there")
	}
}
