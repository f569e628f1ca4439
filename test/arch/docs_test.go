// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/config"
)

// reserved are the keys that nothing reads yet, as the page says.
var reserved = []string{"policy.untilSynced"}

// TestConfigurationIsDocumented compares the page with the keys that there are,
// and these with what the code reads.
func TestConfigurationIsDocumented(t *testing.T) {
	keys := map[string]string{} // its path → the fields on the way to it
	collect(reflect.TypeFor[config.Config](), "", nil, keys)
	documented := names(t, "## The configuration file", "## Annotations")
	for key := range keys {
		if !slices.Contains(documented, key) {
			t.Errorf("docs/configuration.md lacks the key %s", key)
		}
	}
	for _, key := range documented {
		if keys[key] == "" {
			t.Errorf("docs/configuration.md has the key %s, which there isn't", key)
		}
	}
	code := everything(t, "pkg/config/")
	for key, field := range keys {
		read := regexp.MustCompile(`\.` + field + `\b`).MatchString(code)
		if !read && !slices.Contains(reserved, key) {
			t.Errorf("nothing reads the key %s (field %s)", key, field)
		}
	}
}

// collect finds the keys of a struct.
func collect(of reflect.Type, path string, fields []string, into map[string]string) {
	for f := range of.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		key, inner := path+name, f.Type
		if inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct && inner.Elem().PkgPath() == of.PkgPath() {
			key, inner = key+"[]", inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.PkgPath() == of.PkgPath() {
			collect(inner, key+".", append(slices.Clone(fields), f.Name), into)
			continue
		}
		into[key] = f.Name
	}
}

// names are what stands in backquotes in the first column of the tables between
// two headings.
func names(t *testing.T, from, to string) []string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs/configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), from+"\n")
	if !found {
		t.Fatalf("docs/configuration.md lacks the heading %q", from)
	}
	if to != "" {
		text, _, _ = strings.Cut(text, to+"\n")
	}
	var out []string
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			out = append(out, m[1])
		}
	}
	return out
}

// everything is the product's code but for what is below a path.
func everything(t *testing.T, but string) string {
	t.Helper()
	var b strings.Builder
	for _, s := range sources(t, ".go") {
		if !strings.HasSuffix(s.path, "_test.go") && !strings.HasPrefix(s.path, but) && !strings.HasPrefix(s.path, "test/") {
			b.Write(s.text)
		}
	}
	return b.String()
}

// TestAnnotationsAreDocumented compares the page with the annotations that the
// code reads.
func TestAnnotationsAreDocumented(t *testing.T) {
	const file = "pkg/api/v1alpha1/names.go"
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	documented := names(t, "## Annotations", "")
	code := everything(t, file)
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:const )?(Annotation\w+)\s*= (Group \+ )?"([^"]+)"`).FindAllStringSubmatch(string(text), -1) {
		name := m[3]
		if m[2] != "" {
			name = "patchbay.net" + name
		}
		all = append(all, name)
		if !slices.Contains(documented, name) {
			t.Errorf("docs/configuration.md lacks the annotation %s", name)
		}
		if !regexp.MustCompile(`\.` + m[1] + `\b`).MatchString(code) {
			t.Errorf("nothing reads the annotation %s", name)
		}
	}
	for _, name := range documented {
		if !slices.Contains(all, name) {
			t.Errorf("docs/configuration.md has the annotation %s, which there isn't", name)
		}
	}
	for _, s := range sources(t, ".go") {
		if strings.HasSuffix(s.path, "_test.go") || strings.HasPrefix(s.path, "test/") || s.path == file {
			continue
		}
		for _, m := range regexp.MustCompile(`Annotations\["([^"]+)"\]`).FindAllStringSubmatch(string(s.text), -1) {
			t.Errorf("%s reads the annotation %s by a name of its own: name it in %s", s.path, m[1], file)
		}
	}
}
