// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// apiServer is as much of an API server as these tests need: objects in memory,
// lists, watches, and the writes that we use, in JSON. The same tests run on a
// real one where PATCHBAY_TEST_KUBECONFIG names it.
type apiServer struct {
	url string

	mu        sync.Mutex
	version   int
	compacted int                       // watches from before this get 410 Gone
	objects   map[string]map[string]any // by path, "/api/v1/namespaces/x/services/y"
	log       []change
	more      chan struct{} // closed and renewed at each change
	gone      map[string]int
	requests  []string
}

type change struct {
	version    int
	op         string
	collection string // "/api/v1/services"
	object     map[string]any
}

func newAPIServer(t testing.TB) *apiServer {
	t.Helper()
	s := &apiServer{objects: map[string]map[string]any{}, more: make(chan struct{}), gone: map[string]int{}, version: 1}
	server := httptest.NewServer(s)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	s.url = server.URL
	return s
}

// kubeconfig writes a file that leads to the server.
func (s *apiServer) kubeconfig(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("contexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: %q}}]\nusers: [{name: u, user: {token: secret}}]\n", s.url)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *apiServer) client(t testing.TB) *Client {
	t.Helper()
	c, err := New(Options{Kubeconfig: s.kubeconfig(t), KubeletConfigs: []string{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// target is what a path leads to.
type target struct{ collection, path, name, sub string }

func parseTarget(path string) target {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	base := 2 // api/v1
	if parts[0] == "apis" {
		base = 3
	}
	prefix, rest := "/"+strings.Join(parts[:base], "/"), parts[base:]
	t := target{}
	if len(rest) >= 3 && rest[0] == "namespaces" {
		t.path = prefix + "/namespaces/" + rest[1] + "/" + rest[2]
		rest = rest[2:]
	} else {
		t.path = prefix + "/" + rest[0]
	}
	t.collection = prefix + "/" + rest[0]
	if len(rest) > 1 {
		t.name = rest[1]
		t.path += "/" + rest[1]
	}
	if len(rest) > 2 {
		t.sub = rest[2]
	}
	return t
}

func pathOf(t testing.TB, kind source.Kind, key source.Key) target {
	t.Helper()
	typ, err := source.TypeOf(kind)
	if err != nil {
		t.Fatal(err)
	}
	path := "/apis/" + typ.Version.String()
	if typ.Version.Group == "" {
		path = "/api/" + typ.Version.Version
	}
	if typ.Namespaced {
		path += "/namespaces/" + key.Namespace
	}
	return parseTarget(path + "/" + typ.Resource + "/" + key.Name)
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := parseTarget(r.URL.Path)
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	code := s.gone[t.collection]
	s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	switch {
	case code != 0:
		fail(w, code, "")
	case r.Method == http.MethodGet && t.name == "" && r.URL.Query().Get("watch") == "true":
		s.watch(w, r, t)
	case r.Method == http.MethodGet && t.name == "":
		s.list(w, r, t)
	default:
		s.single(w, r, t, body)
	}
}

func fail(w http.ResponseWriter, code int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if reason == "" {
		reason = map[int]string{404: "NotFound", 403: "Forbidden", 409: "Conflict", 410: "Expired", 422: "Invalid"}[code]
	}
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"%s","reason":"%s","code":%d}`, http.StatusText(code), reason, code)
}

func selects(r *http.Request, obj map[string]any) bool {
	field, want, ok := strings.Cut(r.URL.Query().Get("fieldSelector"), "=")
	if !ok {
		return true
	}
	var v any = obj
	for part := range strings.SplitSeq(field, ".") {
		m, _ := v.(map[string]any)
		v = m[part]
	}
	return v == want
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, t target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []any{}
	kind, version := "", ""
	for _, path := range slices.Sorted(maps.Keys(s.objects)) {
		if obj := s.objects[path]; parseTarget(path).collection == t.collection && selects(r, obj) {
			items = append(items, obj)
		}
	}
	for _, typ := range source.Types() {
		if strings.HasSuffix(t.collection, typ.Version.String()+"/"+typ.Resource) {
			kind, version = string(typ.Kind)+"List", typ.Version.String()
		}
	}
	reply(w, map[string]any{"kind": kind, "apiVersion": version, "metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)}, "items": items})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, t target) {
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		fail(w, http.StatusUnprocessableEntity, "")
		return
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	s.mu.Lock()
	if from < s.compacted {
		s.mu.Unlock()
		fail(w, http.StatusGone, "")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	enc, next := json.NewEncoder(w), 0
	for {
		batch, more, compacted := s.log[next:], s.more, s.compacted
		next = len(s.log)
		s.mu.Unlock()
		if from < compacted {
			return
		}
		for _, c := range batch {
			if c.version > from && c.collection == t.collection && selects(r, c.object) {
				_ = enc.Encode(map[string]any{"type": c.op, "object": c.object})
				w.(http.Flusher).Flush()
			}
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
		s.mu.Lock()
	}
}

// commit stores an object, or removes it if it is nil. Storing the same again
// changes nothing.
func (s *apiServer) commit(t target, obj map[string]any) map[string]any {
	old := s.objects[t.path]
	op := "ADDED"
	switch {
	case obj == nil:
		op, obj = "DELETED", deepCopy(old)
	case old != nil:
		op = "MODIFIED"
		meta := metaOf(obj)
		meta["uid"], meta["resourceVersion"] = metaOf(old)["uid"], metaOf(old)["resourceVersion"]
		if reflect.DeepEqual(deepCopy(obj), deepCopy(old)) {
			return old
		}
	default:
		metaOf(obj)["uid"] = fmt.Sprintf("uid-%d", s.version)
	}
	s.version++
	metaOf(obj)["resourceVersion"] = strconv.Itoa(s.version)
	s.objects[t.path] = obj
	if op == "DELETED" {
		delete(s.objects, t.path)
	}
	s.log = append(s.log, change{s.version, op, t.collection, deepCopy(obj)})
	close(s.more)
	s.more = make(chan struct{})
	return obj
}

func metaOf(obj map[string]any) map[string]any {
	meta, _ := obj["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		obj["metadata"] = meta
	}
	return meta
}

func deepCopy(obj map[string]any) map[string]any {
	data, _ := json.Marshal(obj)
	var out map[string]any
	_ = json.Unmarshal(data, &out)
	return out
}

func (s *apiServer) single(w http.ResponseWriter, r *http.Request, t target, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sent map[string]any
	_ = json.Unmarshal(body, &sent)
	if r.Method == http.MethodPost {
		t.name, _ = metaOf(sent)["name"].(string)
		t.path += "/" + t.name
	}
	old := s.objects[t.path]
	apply := r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/apply-patch+yaml"
	switch {
	case old == nil && r.Method != http.MethodPost && !apply:
		fail(w, http.StatusNotFound, "")
		return
	case old != nil && r.Method == http.MethodPost:
		fail(w, http.StatusConflict, "AlreadyExists")
		return
	}
	switch r.Method {
	case http.MethodGet:
		reply(w, old)
	case http.MethodDelete:
		if limits, _ := sent["preconditions"].(map[string]any); limits["resourceVersion"] != nil && limits["resourceVersion"] != metaOf(old)["resourceVersion"] {
			fail(w, http.StatusConflict, "")
			return
		}
		reply(w, s.commit(t, nil))
	case http.MethodPost:
		reply(w, s.commit(t, sent))
	case http.MethodPut:
		if v := metaOf(sent)["resourceVersion"]; v != nil && v != metaOf(old)["resourceVersion"] {
			fail(w, http.StatusConflict, "")
			return
		}
		reply(w, s.commit(t, sent))
	case http.MethodPatch:
		s.patch(w, r, t, old, body)
	}
}

func (s *apiServer) patch(w http.ResponseWriter, r *http.Request, t target, old map[string]any, body []byte) {
	switch r.Header.Get("Content-Type") {
	case "application/apply-patch+yaml":
		var sent map[string]any
		_ = json.Unmarshal(body, &sent)
		if old != nil {
			sent["status"] = old["status"]
		}
		if sent["status"] == nil {
			delete(sent, "status")
		}
		reply(w, s.commit(t, sent))
	case "application/json-patch+json":
		patch, err := jsonpatch.DecodePatch(body)
		if err != nil {
			fail(w, http.StatusBadRequest, "")
			return
		}
		doc, _ := json.Marshal(old)
		out, err := patch.Apply(doc)
		if err != nil {
			fail(w, http.StatusUnprocessableEntity, "")
			return
		}
		var obj map[string]any
		_ = json.NewDecoder(bytes.NewReader(out)).Decode(&obj)
		if metaOf(obj)["resourceVersion"] != metaOf(old)["resourceVersion"] {
			fail(w, http.StatusConflict, "")
			return
		}
		if t.sub == "status" {
			obj["spec"] = old["spec"]
			if obj["spec"] == nil {
				delete(obj, "spec")
			}
		}
		reply(w, s.commit(t, obj))
	case "application/merge-patch+json":
		doc, _ := json.Marshal(old)
		out, err := jsonpatch.MergePatch(doc, body)
		if err != nil {
			fail(w, http.StatusBadRequest, "")
			return
		}
		var obj map[string]any
		_ = json.Unmarshal(out, &obj)
		reply(w, s.commit(t, obj))
	default:
		fail(w, http.StatusUnsupportedMediaType, "")
	}
}

// put stores an object as its owner would.
func (s *apiServer) put(t testing.TB, obj source.Object) {
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
	metaOf(fields)["managedFields"] = []any{map[string]any{"manager": "test", "operation": "Update", "apiVersion": "v1"}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commit(pathOf(t, kind, source.KeyOf(obj)), fields)
}

func (s *apiServer) remove(t testing.TB, kind source.Kind, key source.Key) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	target := pathOf(t, kind, key)
	if s.objects[target.path] == nil {
		t.Fatalf("%s %s isn't there to be removed", kind, key)
	}
	s.commit(target, nil)
}

// compact forgets all changes: watches end and must list anew.
func (s *apiServer) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.compacted = s.version
	close(s.more)
	s.more = make(chan struct{})
}
