// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/sourcetest"
	"github.com/patchbay-net/patchbay/test/apiserver"
)

// realServer is an API server, and our client to it.
type realServer struct {
	*apiserver.Server
	client *Client
}

func startReal(t *testing.T) *realServer {
	t.Helper()
	s := &realServer{Server: apiserver.Start(t)}
	var err error
	if s.client, err = New(Options{Kubeconfig: s.Kubeconfig, KubeletConfigs: []string{}, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	s.Apply(t, "/api/v1/namespaces/"+sourcetest.Namespace, "{apiVersion: v1, kind: Namespace, metadata: {name: "+sourcetest.Namespace+"}}")
	return s
}

// clear removes what a test before left.
func (s *realServer) clear(t *testing.T) {
	t.Helper()
	for _, typ := range source.Types() {
		switch {
		case typ.Version.Group == v1alpha1.Group:
			s.Delete(t, "/apis/"+typ.Version.String()+"/"+typ.Resource)
		case typ.Kind == source.KindService || typ.Kind == source.KindEndpointSlice:
			path := pathOf(t, typ.Kind, source.Key{Namespace: sourcetest.Namespace, Name: "x"}).path
			s.Delete(t, strings.TrimSuffix(path, "/x"))
		}
	}
}

func (s *realServer) Source() source.Source { return s.client }
func (s *realServer) Writer() source.Writer { return s.client }

func (s *realServer) Put(t testing.TB, obj source.Object) {
	t.Helper()
	kind, err := source.KindOf(obj)
	if err != nil {
		t.Fatal(err)
	}
	typ, err := source.TypeOf(kind)
	if err != nil {
		t.Fatal(err)
	}
	fields, err := fieldsOf(obj)
	if err != nil {
		t.Fatal(err)
	}
	delete(fields, "status")
	fields["apiVersion"], fields["kind"] = typ.Version.String(), string(kind)
	body, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	s.Apply(t, pathOf(t, kind, source.KeyOf(obj)).path, string(body))
}

func (s *realServer) Remove(t testing.TB, kind source.Kind, key source.Key) {
	t.Helper()
	s.Delete(t, pathOf(t, kind, key).path)
}

// Break lets the server take any IPPool from now on, and gives it a bad one.
func (s *realServer) Break(t testing.TB, name string) {
	t.Helper()
	const steps = `[{"op":"replace","path":"/spec/versions/0/schema/openAPIV3Schema","value":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}]`
	if err := s.Patch("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ippools.patchbay.net", steps); err != nil {
		t.Fatal(err)
	}
	s.Apply(t, "/apis/patchbay.net/v1alpha1/ippools/"+name, "{apiVersion: patchbay.net/v1alpha1, kind: IPPool, metadata: {name: "+name+"}, spec: {use: Nobody, cidrs: [203.0.113.0/28]}}")
}

// TestContractReal runs the suite on a real API server.
func TestContractReal(t *testing.T) {
	s := startReal(t)
	sourcetest.Run(t, func(t *testing.T) sourcetest.Backend {
		s.InstallCRDs(t)
		s.clear(t)
		return s
	})
}

// TestElectionAndEventsReal has what the API server validates in leases and
// events.
func TestElectionAndEventsReal(t *testing.T) {
	s := startReal(t)
	election := Election{Namespace: sourcetest.Namespace, Name: "patchbay-controller", Identity: "a"}
	for _, election.Identity = range []string{"a", "b"} { // the second needn't wait: the first gave back
		err := s.client.RunElected(t.Context(), election, func(ctx context.Context) error {
			return s.Get("/apis/coordination.k8s.io/v1/namespaces/"+sourcetest.Namespace+"/leases/patchbay-controller", nil)
		})
		if err != nil {
			t.Error(err)
		}
	}
	rec := s.client.Recorder("n1")
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: sourcetest.Namespace, Name: "web"}}
	for _, obj := range []source.Object{pool("external", "203.0.113.0/28"), service} {
		for range 2 {
			rec.Event(obj, corev1.EventTypeWarning, "Conflict", "203.0.113.3 is in use")
			if err := rec.write(t.Context(), <-rec.queue, time.Now()); err != nil {
				t.Errorf("event on %T: %v", obj, err)
			}
		}
	}
}
