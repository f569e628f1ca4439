// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodePolicy restricts traffic to and from nodes themselves. Its rules have
// the shape of ClusterNetworkPolicy's.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=patchbay
// +kubebuilder:printcolumn:name="Priority",type=integer,JSONPath=`.spec.priority`
type NodePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec NodePolicySpec `json:"spec"`
	// +optional
	Status NodePolicyStatus `json:"status,omitzero"`
}

// NodePolicyList is a list of NodePolicies.
//
// +kubebuilder:object:root=true
type NodePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []NodePolicy `json:"items"`
}

// NodePolicySpec says what nodes may send and receive. The first rule that
// fits decides: policies by priority, a policy's rules from top to bottom. What
// no rule fits is accepted.
type NodePolicySpec struct {
	// NodeSelector selects the nodes; all if left out.
	// +optional
	NodeSelector *Selector `json:"nodeSelector,omitempty"`
	// Priority orders policies: the lowest number first, equal ones by name.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Priority int32 `json:"priority"`
	// Ingress are the rules for what comes to the node.
	// +optional
	// +kubebuilder:validation:MaxItems=25
	// +listType=atomic
	Ingress []NodePolicyIngress `json:"ingress,omitempty"`
	// Egress are the rules for what the node sends.
	// +optional
	// +kubebuilder:validation:MaxItems=25
	// +listType=atomic
	Egress []NodePolicyEgress `json:"egress,omitempty"`
}

// PolicyAction is what happens to traffic that a rule fits.
//
// +kubebuilder:validation:Enum=Accept;Deny;Pass
type PolicyAction string

// The actions of a rule.
const (
	ActionAccept PolicyAction = "Accept" // let through
	ActionDeny   PolicyAction = "Deny"   // dropped
	ActionPass   PolicyAction = "Pass"   // no further NodePolicy is asked
)

// NodePolicyIngress is a rule for traffic to the node.
type NodePolicyIngress struct {
	// Name of the rule, for people and counters.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	Name string `json:"name,omitempty"`
	// Action is what happens to traffic that the rule fits.
	Action PolicyAction `json:"action"`
	// From are the senders that the rule fits: any one of them.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=25
	// +listType=atomic
	From []NodePolicyPeer `json:"from"`
	// Protocols that the rule fits: any one of them; all if left out.
	// +optional
	// +kubebuilder:validation:MaxItems=25
	// +listType=atomic
	Protocols []NodePolicyProtocol `json:"protocols,omitempty"`
}

// NodePolicyEgress is a rule for traffic from the node.
type NodePolicyEgress struct {
	// Name of the rule, for people and counters.
	// +optional
	// +kubebuilder:validation:MaxLength=100
	Name string `json:"name,omitempty"`
	// Action is what happens to traffic that the rule fits.
	Action PolicyAction `json:"action"`
	// To are the receivers that the rule fits: any one of them.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=25
	// +listType=atomic
	To []NodePolicyPeer `json:"to"`
	// Protocols that the rule fits: any one of them; all if left out.
	// +optional
	// +kubebuilder:validation:MaxItems=25
	// +listType=atomic
	Protocols []NodePolicyProtocol `json:"protocols,omitempty"`
}

// NodePolicyPeer is the other side of traffic: exactly one of the fields.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type NodePolicyPeer struct {
	// Namespaces fits all pods in the namespaces selected.
	// +optional
	Namespaces *Selector `json:"namespaces,omitempty"`
	// Pods fits the pods selected, by their own and their namespace's labels.
	// +optional
	Pods *NamespacedPods `json:"pods,omitempty"`
	// Nodes fits the nodes selected.
	// +optional
	Nodes *Selector `json:"nodes,omitempty"`
	// Networks fits addresses in any of the prefixes.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=25
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be a prefix without host bits"
	// +listType=set
	Networks []string `json:"networks,omitempty"`
}

// NamespacedPods selects pods.
type NamespacedPods struct {
	// NamespaceSelector selects namespaces; all if empty.
	NamespaceSelector Selector `json:"namespaceSelector"`
	// PodSelector selects pods in them; all if empty.
	PodSelector Selector `json:"podSelector"`
}

// NodePolicyProtocol is a protocol with its ports: exactly one of the fields.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type NodePolicyProtocol struct {
	// +optional
	TCP *ProtocolPorts `json:"tcp,omitempty"`
	// +optional
	UDP *ProtocolPorts `json:"udp,omitempty"`
	// +optional
	SCTP *ProtocolPorts `json:"sctp,omitempty"`
}

// ProtocolPorts are the ports of a protocol.
type ProtocolPorts struct {
	// DestinationPort is the port of the receiver; all if left out.
	// +optional
	DestinationPort *PolicyPort `json:"destinationPort,omitempty"`
}

// PolicyPort is a port or a range of ports: exactly one of the fields.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type PolicyPort struct {
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Number *int32 `json:"number,omitempty"`
	// +optional
	Range *PortRange `json:"range,omitempty"`
}

// PortRange is the ports from Start to End, both included.
//
// +kubebuilder:validation:XValidation:rule="self.start <= self.end",message="start must not be above end"
type PortRange struct {
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Start int32 `json:"start"`
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	End int32 `json:"end"`
}

// NodePolicyStatus says whether the policy is in force.
type NodePolicyStatus struct {
	// Conditions: Accepted.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Default sets what is left out: nothing.
func (p *NodePolicy) Default() {}

// Validate returns all that is wrong with the policy.
func (p *NodePolicy) Validate() error {
	c := newChecks("NodePolicy", p)
	s := &p.Spec
	s.NodeSelector.check(c, "spec.nodeSelector")
	c.between("spec.priority", int64(s.Priority), 0, 1000)
	c.count("spec.ingress", len(s.Ingress), 25)
	for i, r := range s.Ingress {
		c.policyRule(index("spec.ingress", i), "from", policyRule{r.Name, r.Action, r.From, r.Protocols})
	}
	c.count("spec.egress", len(s.Egress), 25)
	for i, r := range s.Egress {
		c.policyRule(index("spec.egress", i), "to", policyRule{r.Name, r.Action, r.To, r.Protocols})
	}
	return c.err()
}

// policyRule is what both directions' rules have.
type policyRule struct {
	name      string
	action    PolicyAction
	peers     []NodePolicyPeer
	protocols []NodePolicyProtocol
}

func (c *checks) policyRule(field, peersField string, r policyRule) {
	if r.name != "" {
		c.text(field+".name", r.name, 100)
	}
	c.oneOf(field+".action", r.action, ActionAccept, ActionDeny, ActionPass)
	peersField = field + "." + peersField
	if len(r.peers) == 0 {
		c.add(peersField, "must have an entry")
	}
	c.count(peersField, len(r.peers), 25)
	for i := range r.peers {
		r.peers[i].check(c, index(peersField, i))
	}
	c.count(field+".protocols", len(r.protocols), 25)
	for i := range r.protocols {
		r.protocols[i].check(c, index(field+".protocols", i))
	}
}

func (p *NodePolicyPeer) check(c *checks, field string) {
	c.exactlyOne(field, p.Namespaces != nil, p.Pods != nil, p.Nodes != nil, p.Networks != nil)
	p.Namespaces.check(c, field+".namespaces")
	p.Nodes.check(c, field+".nodes")
	if p.Pods != nil {
		p.Pods.NamespaceSelector.check(c, field+".pods.namespaceSelector")
		p.Pods.PodSelector.check(c, field+".pods.podSelector")
	}
	if p.Networks != nil && len(p.Networks) == 0 {
		c.add(field+".networks", "must have an entry")
	}
	c.count(field+".networks", len(p.Networks), 25)
	c.distinct(field+".networks", p.Networks)
	for i, text := range p.Networks {
		c.prefix(index(field+".networks", i), text)
	}
}

func (p *NodePolicyProtocol) check(c *checks, field string) {
	c.exactlyOne(field, p.TCP != nil, p.UDP != nil, p.SCTP != nil)
	for name, ports := range map[string]*ProtocolPorts{"tcp": p.TCP, "udp": p.UDP, "sctp": p.SCTP} {
		if ports != nil && ports.DestinationPort != nil {
			ports.DestinationPort.check(c, fmt.Sprintf("%s.%s.destinationPort", field, name))
		}
	}
}

func (p *PolicyPort) check(c *checks, field string) {
	c.exactlyOne(field, p.Number != nil, p.Range != nil)
	if p.Number != nil {
		c.between(field+".number", int64(*p.Number), 1, 65535)
	}
	if r := p.Range; r != nil {
		c.between(field+".range.start", int64(r.Start), 1, 65535)
		c.between(field+".range.end", int64(r.End), 1, 65535)
		if r.Start > r.End {
			c.add(field+".range", "start %d must not be above end %d", r.Start, r.End)
		}
	}
}
