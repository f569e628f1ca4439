// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/patchbay-net/patchbay/pkg/source/durable"
)

// servers are the API servers to talk to: those configured, in order, then
// those that the cluster itself named last. The Service address is not needed:
// it serves only once Patchbay does.
type servers struct {
	log   *slog.Logger
	state string // file with those learned; empty: none

	mu      sync.Mutex
	fixed   []string
	learned []string
	current string // the one that answered last
}

// newServers brings together what is known: the list given, the kubeconfig's
// server, the kubelet's, the one in the pod's environment, those last known.
func newServers(opts Options, kubeconfig string) (*servers, error) {
	s := &servers{log: opts.Log}
	for _, server := range append(slices.Clone(opts.APIServers), kubeconfig) {
		if err := s.add(server); err != nil {
			return nil, err
		}
	}
	for _, path := range opts.KubeletConfigs {
		if file, err := readKubeconfig(path); err == nil {
			if cluster, _, err := file.current(); err == nil && s.add(cluster.Server) != nil {
				opts.Log.Warn("kubelet's API server", "file", path, "server", cluster.Server)
			}
		}
	}
	if host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"); host != "" && port != "" {
		if err := s.add("https://" + net.JoinHostPort(host, port)); err != nil {
			return nil, err
		}
	}
	if opts.StateDir != "" {
		s.state = filepath.Join(opts.StateDir, "apiservers")
		s.load()
	}
	if len(s.fixedOrLearned()) == 0 {
		return nil, errors.New("find API server: none was given, none stands in a kubelet's configuration or in the environment, and none is known from before")
	}
	return s, nil
}

func (s *servers) add(server string) error {
	if server == "" {
		return nil
	}
	server, err := normalise(server)
	if err == nil && !slices.Contains(s.fixed, server) {
		s.fixed = append(s.fixed, server)
	}
	return err
}

// normalise returns a server as scheme://host:port.
func normalise(server string) (string, error) {
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("API server %q: must be host:port, or a URL without a path", server)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), map[string]string{"https": "6443", "http": "8080"}[u.Scheme])
	}
	return u.Scheme + "://" + u.Host, nil
}

func (s *servers) load() {
	data, err := os.ReadFile(s.state)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("read API servers last known", "err", err)
		}
		return
	}
	for line := range strings.FieldsSeq(string(data)) {
		if server, err := normalise(line); err == nil {
			s.learned = append(s.learned, server)
		}
	}
}

func (s *servers) fixedOrLearned() []string {
	return append(slices.Clone(s.fixed), s.learned...)
}

// order returns the servers as they are to be tried.
func (s *servers) order() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, server := range append([]string{s.current}, s.fixedOrLearned()...) {
		if server != "" && !slices.Contains(out, server) {
			out = append(out, server)
		}
	}
	return out
}

func (s *servers) use(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != server {
		s.log.Info("using API server", "server", server)
		s.current = server
	}
}

// leave lets the next request begin with the first server again.
func (s *servers) leave(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == server {
		s.current = ""
	}
}

// isOwnSlice tells whether a slice names the API servers.
func isOwnSlice(slice *discoveryv1.EndpointSlice) bool {
	return slice.Namespace == "default" && slice.Labels[discoveryv1.LabelServiceName] == "kubernetes"
}

// learn takes in the API servers that the cluster names, and keeps them on
// disk. None at all is no news: those known stay.
func (s *servers) learn(list []*discoveryv1.EndpointSlice) {
	found := addresses(list)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(found) == 0 || slices.Equal(found, s.learned) {
		return
	}
	s.learned = found
	if s.state == "" {
		return
	}
	err := durable.Replace(s.state, func(w io.Writer) error {
		_, err := io.WriteString(w, strings.Join(found, "\n")+"\n")
		return err
	})
	if err != nil {
		s.log.Warn("keep API servers last known", "err", err)
	}
}

// addresses returns the servers that slices name, in order.
func addresses(list []*discoveryv1.EndpointSlice) []string {
	var out []string
	for _, slice := range list {
		for _, port := range slice.Ports {
			for _, ep := range slice.Endpoints {
				if port.Port != nil && len(ep.Addresses) > 0 {
					out = append(out, "https://"+net.JoinHostPort(ep.Addresses[0], fmt.Sprint(*port.Port)))
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// over returns a transport that sends each request to the first server that can
// be reached.
func (s *servers) over(base http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		var errs []error
		for i, server := range s.order() {
			attempt, err := redirect(req, server, i > 0)
			if err != nil {
				return nil, errors.Join(append(errs, err)...)
			}
			resp, err := base.RoundTrip(attempt)
			if err == nil {
				s.use(server)
				return resp, nil
			}
			s.leave(server)
			errs = append(errs, fmt.Errorf("API server %s: %w", server, err))
			if req.Context().Err() != nil || !neverSent(err) {
				break
			}
		}
		return nil, errors.Join(errs...)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// redirect returns the request for another server.
func redirect(req *http.Request, server string, again bool) (*http.Request, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host, out.Host = u.Scheme, u.Host, ""
	if again && req.Body != nil {
		if req.GetBody == nil {
			return nil, errors.New("send request again: its body is used up")
		}
		if out.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// neverSent tells whether a request failed before the server could see it, so
// that it may go to another one whatever it asks for.
func neverSent(err error) bool {
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &cert)
}
