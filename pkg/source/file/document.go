// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// ref names an object across kinds.
type ref struct {
	kind source.Kind
	key  source.Key
}

func (r ref) String() string { return string(r.kind) + " " + r.key.String() }

// document is one object of a file, or what was wrong with it.
type document struct {
	origin string // "/etc/patchbay/objects/web.yaml: document 2 (line 14)"
	ref    ref    // as far as known, also of one that is wrong
	object source.Object
	err    error
}

// chunk is the text of one YAML document.
type chunk struct {
	line int // where it begins, from 1
	text []byte
}

// split cuts a file at its document markers.
func split(data []byte) []chunk {
	var chunks []chunk
	current := chunk{line: 1}
	line := 0
	for text := range bytes.Lines(data) {
		line++
		if rest, ok := marker(text); ok {
			chunks = append(chunks, current)
			current = chunk{line: line, text: rest}
			continue
		}
		current.text = append(current.text, text...)
	}
	return append(chunks, current)
}

// marker tells whether a line begins a document, and returns the line without
// its marker.
func marker(line []byte) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	if !ok || len(rest) > 0 && !strings.ContainsRune(" \t\r\n", rune(rest[0])) {
		return nil, false
	}
	return append([]byte("   "), rest...), true
}

// isBlank tells whether a document says nothing: blanks and comments alone.
func isBlank(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// decoder makes an object of its JSON.
type decoder func(t source.Type, name ref, data []byte) (source.Object, error)

// parse reads the objects of a file. Objects of kinds that nobody here reads are
// left out, and so are documents of others than kinds (nil: all), but for the
// last: a file that is cut short is known by that.
func parse(path string, data []byte, kinds []source.Kind, decode decoder) []document {
	var docs []document
	n := 0
	chunks := split(data)
	for i, c := range chunks {
		if isBlank(c.text) {
			continue
		}
		n++
		if i < len(chunks)-1 && isOther(c.text, kinds) {
			continue
		}
		origin := fmt.Sprintf("%s: document %d (line %d)", path, n, c.line)
		docs = append(docs, parseDocument(origin, c.text, decode)...)
	}
	return docs
}

// isOther tells whether a document is plainly of a kind that isn't asked for: most
// are, and reading YAML is slow.
func isOther(text []byte, kinds []source.Kind) bool {
	if kinds == nil {
		return false
	}
	for line := range bytes.Lines(text) {
		if name, ok := bytes.CutPrefix(line, []byte("kind: ")); ok {
			kind := source.Kind(bytes.TrimSpace(name))
			_, err := source.TypeOf(kind)
			return err == nil && !slices.Contains(kinds, kind)
		}
	}
	return false
}

func parseDocument(origin string, text []byte, decode decoder) []document {
	data, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		doc := document{origin: origin, err: errors.New(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "))}
		doc.ref = guess(text)
		return []document{doc}
	}
	return parseJSON(origin, data, head{}, decode)
}

// head is what tells an object's type and name.
type head struct {
	APIVersion string
	Kind       string
	Namespace  string
	Name       string
	Items      []json.RawMessage
}

// headOf reads what is there of an object's head; what is of the wrong form
// counts as left out.
func headOf(data []byte) (head, error) {
	var fields map[string]json.RawMessage
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &fields); err != nil || fields == nil {
		return head{}, errors.New("must be an object with apiVersion, kind and metadata")
	}
	var metadata map[string]json.RawMessage
	_ = json.Unmarshal(fields["metadata"], &metadata)
	var h head
	for _, f := range []struct {
		into any
		from json.RawMessage
	}{
		{&h.APIVersion, fields["apiVersion"]},
		{&h.Kind, fields["kind"]},
		{&h.Namespace, metadata["namespace"]},
		{&h.Name, metadata["name"]},
		{&h.Items, fields["items"]},
	} {
		_ = json.Unmarshal(f.from, f.into) // absent or of another form: stays empty
	}
	return h, nil
}

// guess returns what a document that isn't YAML as a whole was meant to define,
// going by its longest beginning that is. A file cut short mostly has that.
func guess(text []byte) ref {
	const tries = 200
	for range tries {
		end := bytes.LastIndexByte(bytes.TrimRight(text, "\n"), '\n')
		if end < 0 {
			return ref{}
		}
		text = text[:end+1]
		data, err := yaml.YAMLToJSON(text)
		if err != nil {
			continue
		}
		if h, err := headOf(data); err == nil {
			if t, known, err := h.typeOf(); known && err == nil {
				return h.ref(t)
			}
		}
		return ref{}
	}
	return ref{}
}

// ref returns the name of what h is the head of; the empty ref if it has none.
func (h head) ref(t source.Type) ref {
	if h.Name == "" {
		return ref{}
	}
	key := source.Key{Name: h.Name}
	if t.Namespaced {
		key.Namespace = h.Namespace
		if key.Namespace == "" {
			key.Namespace = "default"
		}
	}
	return ref{t.Kind, key}
}

// typeOf finds the type of an object. It is not known if the object is of a
// group that nobody here reads; it is an error if the group is read but not
// this version or kind.
func (h head) typeOf() (t source.Type, known bool, err error) {
	if h.Kind == "" || h.APIVersion == "" {
		return t, true, errors.New("apiVersion and kind must be given")
	}
	version, err := schema.ParseGroupVersion(h.APIVersion)
	if err != nil {
		return t, true, err
	}
	t, err = source.TypeOf(source.Kind(h.Kind))
	switch {
	case err == nil && t.Version == version:
		return t, true, nil
	case err == nil && t.Version.Group == version.Group:
		return t, true, fmt.Errorf("%s: apiVersion %s isn't read; write %s", h.Kind, h.APIVersion, t.Version)
	case version.Group == v1alpha1.Group:
		return t, true, fmt.Errorf("%s %s: there is no such kind", h.APIVersion, h.Kind)
	}
	return source.Type{}, false, nil
}

// parseJSON reads one object, or those of a list. An item of a list takes
// apiVersion and kind from its list if it has none, as in the API's answers.
func parseJSON(origin string, data []byte, list head, decode decoder) []document {
	h, err := headOf(data)
	if err != nil {
		return []document{{origin: origin, err: err}}
	}
	if h.APIVersion == "" && h.Kind == "" {
		h.APIVersion, h.Kind = list.APIVersion, list.Kind
	}
	if item, ok := strings.CutSuffix(h.Kind, "List"); ok {
		return parseList(origin, h, item, decode)
	}
	t, known, err := h.typeOf()
	if !known && h.Name != "" {
		return nil
	}
	if !known {
		return []document{{origin: origin, err: fmt.Errorf("%s %s: metadata.name must be given", h.APIVersion, h.Kind)}}
	}
	if err != nil {
		return []document{{origin: origin, err: err}}
	}
	doc := document{origin: origin, ref: h.ref(t)}
	if doc.ref == (ref{}) {
		doc.err = fmt.Errorf("%s: metadata.name must be given", t.Kind)
		return []document{doc}
	}
	if doc.object, doc.err = decode(t, doc.ref, data); doc.err == nil {
		doc.object.SetNamespace(doc.ref.key.Namespace)
		doc.object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return []document{doc}
}

func parseList(origin string, h head, item string, decode decoder) []document {
	of := head{}
	if item != "" {
		of = head{APIVersion: h.APIVersion, Kind: item}
		if _, known, err := of.typeOf(); !known && err == nil {
			return nil
		}
	}
	var docs []document
	for i, data := range h.Items {
		docs = append(docs, parseJSON(fmt.Sprintf("%s, item %d", origin, i+1), data, of, decode)...)
	}
	return docs
}

// decodeObject makes an object and checks it: by the letter if it is one of
// ours, as the API server would if it is Kubernetes'.
func decodeObject(t source.Type, name ref, data []byte) (source.Object, error) {
	obj := t.New()
	strict, err := kjson.UnmarshalStrict(data, obj)
	if err == nil && t.Version.Group == v1alpha1.Group {
		err = errors.Join(strict...)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if errs := nameErrors(name.key); len(errs) > 0 {
		return nil, fmt.Errorf("%s: metadata: %s", name, strings.Join(errs, "; "))
	}
	if err := checkKubernetes(obj); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := source.Check(obj, nil); err != nil {
		return nil, err
	}
	// A copy has lists as long as they need be; the decoder's are up to twice that.
	if compact, ok := obj.DeepCopyObject().(source.Object); ok {
		return compact, nil
	}
	return obj, nil
}

// decodeStatus makes an object of which only name and status are given.
func decodeStatus(t source.Type, name ref, data []byte) (source.Object, error) {
	obj := t.New()
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, obj); err != nil {
		return nil, fmt.Errorf("status of %s: %w", name, err)
	}
	return obj, nil
}

func nameErrors(key source.Key) []string {
	errs := validation.IsDNS1123Subdomain(key.Name)
	if key.Namespace != "" {
		errs = slices.Concat(errs, validation.IsDNS1123Label(key.Namespace))
	}
	return errs
}
